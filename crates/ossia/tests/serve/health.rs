//! `ossia health`, with the settings of the server that it asks.

use std::process::Command;

use crate::harness::Server;
use crate::sockets::certificate;

/// Whether the answer is yes, and what is said.
fn health(server: &Server, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossia"));
    let output = command
        .args(["health", "--config", "none"])
        .args(args)
        .current_dir(server.dir.path())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn port(server: &Server) -> &str {
    server.address.rsplit(':').next().unwrap()
}

#[test]
fn it_tells_ready_from_gone_and_listens_where_the_server_does() {
    let mut server = Server::start(&["--host", "0.0.0.0", "--insecure"]);
    let port = port(&server).to_owned();
    for args in [&["--host", "0.0.0.0", "--port", &port][..], &["--port", &port, "--live"]] {
        let (well, text) = health(&server, args);
        assert!(well && text.contains("200"), "{text}");
    }
    server.signal("-TERM");
    server.wait();
    let (well, text) = health(&server, &["--port", &port]);
    assert!(!well && text.contains("nobody listens on 127.0.0.1:"), "{text}");
}

#[test]
fn a_unix_socket_is_asked() {
    let server = Server::start(&["--unix-socket", "ossia.sock"]);
    let (well, text) = health(&server, &["--unix-socket", "ossia.sock"]);
    assert!(well, "{text}");
}

#[test]
fn with_tls_only_the_servers_own_certificate_will_do() {
    let dir = tempfile::tempdir().unwrap();
    ["localhost", "other"].into_iter().for_each(|name| certificate(dir.path(), name));
    let server = Server::start_in(dir, &["--tls-cert", "localhost.crt", "--tls-key", "localhost.key"]);
    let ask = |cert| health(&server, &["--port", port(&server), "--tls-cert", cert, "--tls-key", "x"]);
    let (well, text) = ask("localhost.crt");
    assert!(well, "{text}");
    let (well, text) = ask("other.crt");
    assert!(!well && text.contains("no TLS with the certificate"), "{text}");
}
