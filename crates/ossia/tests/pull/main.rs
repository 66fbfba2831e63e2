//! `ossia pull` against a hub on loopback: complete, resumed after a cut, refused when damaged, carried, and offline.
#![allow(clippy::unwrap_used)]

mod carry;
mod hub;
mod network;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use hub::{Hub, REPO};
use tokio::runtime::Runtime;

/// The program with a cache of its own and nothing of this machine's settings.
fn ossia(home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossia"));
    command.args(args).env("HF_HOME", home).env("RUST_BACKTRACE", "0");
    for name in
        ["HF_TOKEN", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "OSSIA_OFFLINE", "SSL_CERT_FILE", "SSL_CERT_DIR"]
    {
        command.env_remove(name);
    }
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command
}

fn pull(endpoint: &str, home: &Path, offline: bool) -> Output {
    let offline = if offline { "1" } else { "0" };
    ossia(home, &["pull", REPO]).env("HF_ENDPOINT", endpoint).env("HF_HUB_OFFLINE", offline).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn only_the_needed_files_come_and_a_second_pull_asks_for_nothing() {
    let runtime = Runtime::new().unwrap();
    let (hub, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    let endpoint = hub.start(&runtime);
    let first = pull(&endpoint, home.path(), false);
    assert!(first.status.success(), "{}", stderr(&first));
    let snapshot = stdout(&first).trim().to_owned();
    let shard = std::fs::read(Path::new(&snapshot).join("model-2.safetensors")).unwrap();
    assert_eq!(shard, hub.files["model-2.safetensors"]);
    let asked = hub.downloads();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(asked.iter().all(|name| !name.contains('/')), "{asked:?}");

    let offline = pull("http://127.0.0.1:9", home.path(), true);
    assert!(offline.status.success(), "{}", stderr(&offline));
    assert_eq!(stdout(&offline).trim(), snapshot);
    assert_eq!(hub.downloads().len(), 5);
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let runtime = Runtime::new().unwrap();
    let (hub, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    *hub.cut.lock().unwrap() = Some(("model-1.safetensors".to_owned(), 100_000));
    let output = pull(&hub.start(&runtime), home.path(), false);
    assert!(output.status.success(), "{}", stderr(&output));
    let resumed =
        hub.asked.lock().unwrap().iter().any(|(name, start)| name == "model-1.safetensors" && *start > 0);
    assert!(resumed, "{:?}", hub.asked.lock().unwrap());
}

#[test]
fn a_damaged_file_is_named_and_not_kept() {
    let runtime = Runtime::new().unwrap();
    let mut hub = Hub::with_checkpoint();
    hub.damaged = Some("model-2.safetensors".to_owned());
    let (hub, home) = (Arc::new(hub), tempfile::tempdir().unwrap());
    let endpoint = hub.start(&runtime);
    for _ in 0..2 {
        let output = pull(&endpoint, home.path(), false);
        assert!(!output.status.success());
        let message = stderr(&output);
        assert!(message.contains("model-2.safetensors") && message.contains("hash mismatch"), "{message}");
    }
}
