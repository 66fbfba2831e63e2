//! The end: nothing that has begun is lost, nothing new begins.

use std::io::{Read, Write};

use crate::harness::{Server, chat_request, read_answer};

/// A stream whose first bytes have come.
fn stream(server: &Server) -> std::net::TcpStream {
    let mut stream = server.connect();
    stream.write_all(chat_request("ticks", true, "").as_bytes()).unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
    stream
}

#[test]
fn sigterm_loses_none_of_a_hundred_streams() {
    let mut server = Server::start(&["--drain-timeout", "120s", "--max-num-seqs", "128"]);
    let mut streams: Vec<_> = (0..100).map(|_| stream(&server)).collect();
    let mut kept = server.connect();
    server.signal("-TERM");
    server.wait_for_log("finishing 100 requests");
    for path in ["/ready", "/v1/models"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
        assert!(answer.head.contains("retry-after:"), "{}", answer.head);
    }
    assert_eq!(server.get("/health").status, 200, "it is alive while it drains");
    kept.write_all(chat_request("hi", false, "").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut kept).status, 503, "nothing begins on an open connection either");
    for stream in &mut streams {
        let rest = read_answer(stream);
        let text = format!("{}{}", rest.head, rest.body);
        assert!(
            text.trim_end().ends_with("data: [DONE]") || text.trim_end().ends_with("data: [done]"),
            "{text}"
        );
        assert!(!text.contains("\"error\""), "{text}");
    }
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn who_is_not_done_in_time_is_told_so() {
    let mut server = Server::start(&["--drain-timeout", "200ms"]);
    let mut slow = stream(&server);
    server.signal("-TERM");
    let rest = read_answer(&mut slow).body;
    assert!(rest.contains("the engine is shutting down"), "{rest}");
    assert!(rest.trim_end().ends_with("data: [DONE]"), "{rest}");
    assert_eq!(server.wait().code(), Some(0));
    assert!(server.log().contains("cut off after 200ms"));
}

#[test]
fn a_second_signal_means_now() {
    let mut server = Server::start(&["--drain-timeout", "10m"]);
    let _slow = stream(&server);
    server.signal("-TERM");
    server.wait_for_log("finishing 1 requests");
    server.signal("-INT");
    assert_eq!(server.wait().code(), Some(0));
    assert!(server.log().contains("cut off by a second signal"));
}
