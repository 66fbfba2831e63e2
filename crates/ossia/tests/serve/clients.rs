//! Clients that are slow, silent or too many.

use std::io::{Read, Write};
use std::time::Duration;

use crate::harness::{Server, chat_request};

/// Waits until the server says so; hangs (and fails by the runner's time limit) if it never does.
fn wait_until(server: &Server, condition: impl Fn(&serde_json::Value) -> bool) {
    while !condition(&server.loads()) {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn who_stops_sending_is_dropped() {
    let server = Server::start(&["--client-timeout", "500ms"]);
    let unfinished = [
        "",
        "GET / HTTP/1.1\r\nhost: x\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{",
    ];
    for text in unfinished {
        let mut stream = server.connect();
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let refused = answer.is_empty() || answer.contains(" 408 ");
        assert!(refused, "{text}: {answer}");
    }
    // A connection that is kept for the next request is not kept for ever.
    let mut stream = server.connect();
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn who_stops_reading_is_dropped_and_blocks_nobody() {
    let server = Server::start(&["--client-timeout", "1s", "--max-model-len", "100000"]);
    let mut deaf = server.connect();
    deaf.write_all(chat_request("flood", true, "").as_bytes()).unwrap();
    wait_until(&server, |loads| loads["num_running"] == 1);
    assert_eq!(server.chat("hi").status, 200);
    wait_until(&server, |loads| loads["num_running"] == 0);
    let loads = server.loads();
    assert_eq!(
        (loads["num_aborted_total"].as_u64(), loads["num_blocks_used"].as_u64()),
        (Some(1), Some(0)),
        "{loads}"
    );
}

#[test]
fn more_than_the_queue_holds_is_refused_at_once() {
    let server = Server::start(&["--max-num-seqs", "1", "--max-queue-len", "2", "--max-queue-ms", "300"]);
    let mut running = server.connect();
    running.write_all(chat_request("ticks", true, "").as_bytes()).unwrap();
    wait_until(&server, |loads| loads["num_running"] == 1);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = server.connect();
            stream.write_all(chat_request("hi", true, "").as_bytes()).unwrap();
            stream
        })
        .collect();
    wait_until(&server, |loads| loads["num_waiting"] == 2);
    let refused = server.chat("hi");
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert!(refused.head.contains("retry-after: 1\r\n"), "{}", refused.head);
    assert!(refused.body.contains("server_overloaded"), "{}", refused.body);
    // A stream that has not begun can still be refused with a status of its own.
    for mut stream in waiting {
        let late = crate::harness::read_answer(&mut stream);
        assert_eq!(late.status, 503, "{}", late.body);
        assert!(late.head.contains("retry-after: 1\r\n") && late.body.contains("300 ms"), "{late:?}");
    }
}

#[test]
fn heads_and_bodies_have_a_size() {
    let server = Server::start(&["--max-body-size", "10KiB"]);
    let big = "x".repeat(20_000);
    assert_eq!(server.chat(&big).status, 413);
    let head = format!("GET /health HTTP/1.0\r\nx-big: {}\r\n\r\n", "x".repeat(200_000));
    let mut stream = server.connect();
    let _ = stream.write_all(head.as_bytes()); // the server may hang up before all is written
    let answer = crate::harness::read_answer(&mut stream);
    assert!([0, 431].contains(&answer.status), "{answer:?}");
    assert_eq!(server.chat("hi").status, 200);
}
