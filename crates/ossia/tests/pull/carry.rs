//! Carrying a model to where there is no network: a directory with hashes, verified there.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::hub::{Hub, REPO};
use crate::{ossia, pull, stderr, stdout};

/// Pulls to `dir` from a hub at `endpoint`.
fn pull_to(endpoint: &str, home: &Path, dir: &Path) -> std::process::Output {
    let to = dir.to_str().unwrap();
    ossia(home, &["pull", REPO, "--to", to]).env("HF_ENDPOINT", endpoint).output().unwrap()
}

fn verify(home: &Path, model: &str) -> (bool, String, String) {
    let output = ossia(home, &["verify", model]).output().unwrap();
    (output.status.success(), stdout(&output), stderr(&output))
}

#[test]
fn a_carried_directory_has_hashes_that_both_verify_and_sha256sum_read() {
    let runtime = Runtime::new().unwrap();
    let (hub, home, dir) =
        (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let endpoint = hub.start(&runtime);
    // As a pull that was cut would leave it.
    std::fs::write(dir.path().join("model-1.safetensors.incomplete"), vec![1; 100_000]).unwrap();
    let pulled = pull_to(&endpoint, home.path(), dir.path());
    assert!(pulled.status.success(), "{}", stderr(&pulled));
    assert!(hub.asked.lock().unwrap().contains(&("model-1.safetensors".to_owned(), 100_000)));
    assert_eq!(
        std::fs::read(dir.path().join("model-1.safetensors")).unwrap(),
        hub.files["model-1.safetensors"]
    );
    assert!(std::fs::read_dir(home.path()).unwrap().next().is_none(), "the cache is left alone");

    let (well, text, _) = verify(home.path(), dir.path().to_str().unwrap());
    assert!(well && text.matches("ok     ").count() == 5, "{text}");
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--quiet", "SHA256SUMS"]).current_dir(dir.path());
    assert!(check.status().unwrap().success());

    let again = pull_to(&endpoint, home.path(), dir.path());
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(hub.downloads().len(), 5, "what is there is not downloaded again");
}

#[test]
fn a_wrong_file_is_named() {
    let runtime = Runtime::new().unwrap();
    let (hub, home, dir) =
        (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    pull_to(&hub.start(&runtime), home.path(), dir.path());
    let path = dir.path().join("model-2.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100_000] ^= 0x40;
    std::fs::write(&path, bytes).unwrap();
    std::fs::remove_file(dir.path().join("tokenizer.json")).unwrap();
    let (well, text, error) = verify(home.path(), dir.path().to_str().unwrap());
    let failed: Vec<&str> = text.lines().filter(|line| line.starts_with("FAILED")).collect();
    assert!(!well && failed.len() == 2, "{text}");
    assert!(failed[0].contains("model-2.safetensors: hash mismatch"), "{text}");
    assert!(failed[1].contains("tokenizer.json is missing"), "{text}");
    assert!(error.contains("2 of 5 files"), "{error}");
}

#[test]
fn the_cache_is_verified_by_name_and_carried_without_a_network() {
    let runtime = Runtime::new().unwrap();
    let (hub, home, dir) =
        (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let pulled = pull(&hub.start(&runtime), home.path(), false);
    let (well, text, error) = verify(home.path(), REPO);
    assert!(well && text.matches("ok     ").count() == 5, "{text}{error}");

    let to = dir.path().join("carried");
    let copied = ossia(home.path(), &["pull", REPO, "--to", to.to_str().unwrap()])
        .env("OSSIA_OFFLINE", "1")
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .output()
        .unwrap();
    assert!(copied.status.success(), "{}", stderr(&copied));
    assert!(verify(home.path(), to.to_str().unwrap()).0);

    let blob = Path::new(stdout(&pulled).trim()).join("config.json").canonicalize().unwrap();
    std::fs::write(blob, "{ }").unwrap();
    let (well, text, _) = verify(home.path(), REPO);
    assert!(!well && text.contains("config.json: hash mismatch"), "{text}");
}

#[test]
fn without_hashes_there_is_nothing_to_verify() {
    let (home, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(dir.path().join("config.json"), "{}").unwrap();
    let (well, _, error) = verify(home.path(), dir.path().to_str().unwrap());
    assert!(!well && error.contains("has no SHA256SUMS"), "{error}");
    let (well, _, error) = verify(home.path(), REPO);
    assert!(!well && error.contains("config.json is missing"), "{error}");
}
