//! Keys, from `ossia key new` to a running server.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Server, chat_request};

fn ossia(dir: &Path, args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_ossia")).args(args).current_dir(dir).output().unwrap()
}

fn new_key(dir: &Path, args: &[&str]) -> String {
    let output = ossia(dir, &[&["key", "new", "--config", "none", "--api-keys", "keys.toml"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The status of a chat request with this key, when it has become `expected`: changes are seen within a moment.
fn wait_for_status(server: &Server, key: &str, expected: u16) {
    let request = chat_request("hi", false, &format!("authorization: Bearer {key}\r\n"));
    while server.send(&request).status != expected {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn keys_are_made_and_revoked_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let first = new_key(dir.path(), &["--name", "ann", "--tenant", "lab", "--requests-per-minute", "600"]);
    let server = Server::start_in(dir, &["--api-keys", "keys.toml"]);
    assert_eq!(server.chat("hi").status, 401);
    wait_for_status(&server, &first, 200);
    let second = new_key(server.dir.path(), &["--name", "bob"]);
    wait_for_status(&server, &second, 200);
    let list =
        String::from_utf8(ossia(server.dir.path(), &["key", "list", "--api-keys", "keys.toml"]).stdout)
            .unwrap();
    assert!(list.contains("ann") && list.contains("lab") && list.contains("600 requests/min"), "{list}");
    assert!(ossia(server.dir.path(), &["key", "revoke", "ann", "--api-keys", "keys.toml"]).status.success());
    wait_for_status(&server, &first, 401);
    wait_for_status(&server, &second, 200);
    // A file that makes no sense changes nothing.
    std::fs::write(server.path("keys.toml"), "[[key]]\nid = 1\n").unwrap();
    server.wait_for_log("the API keys stay as they were");
    wait_for_status(&server, &second, 200);
    let everything = server.log() + &list;
    assert!(
        !everything.contains(&first) && !everything.contains(&second),
        "a key is nowhere but where it was made"
    );
}

#[test]
fn without_keys_nobody_else_may_come_in() {
    let dir = tempfile::tempdir().unwrap();
    let output = ossia(
        dir.path(),
        &["serve", "scripted:", "--config", "none", "--store", "none", "--port", "0", "--host", "0.0.0.0"],
    );
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && log.contains("--api-keys") && log.contains("--insecure"), "{log}");
}
