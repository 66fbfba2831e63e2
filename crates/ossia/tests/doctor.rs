//! `ossia doctor`: what would keep a server from starting is found before it is started.
#![allow(clippy::unwrap_used)]

use std::net::TcpListener;
use std::process::Command;

/// Whether all is well, and what was said.
fn doctor(args: &[&str]) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let common = ["doctor", "--config", "none", "--store", "memory"];
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossia"));
    let output = command.args(common).args(args).current_dir(dir.path()).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_demo_fits_and_it_says_how() {
    let (well, text) = doctor(&["demo", "--port", "0", "--kv-cache-memory", "64MiB"]);
    assert!(
        well && text.contains("every tensor as config.json says") && text.contains("at the same time fit"),
        "{text}"
    );
    assert!(text.contains("KV cache 64.0 MiB") || text.contains("KV cache 63."), "{text}");
    assert!(!text.contains("FAILED"), "{text}");
}

#[test]
fn what_is_wrong_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let cases: [(&[&str], &str); 5] = [
        (&["demo", "--port", &port], "cannot listen on 127.0.0.1:"),
        (&["demo", "--port", "0", "--kv-cache-memory", "8000GiB"], "--kv-cache-memory less"),
        (&["demo", "--port", "0", "--api-keys", "none.toml"], "cannot read the API keys in none.toml"),
        (&["demo", "--port", "0", "--tls-cert", "none.crt", "--tls-key", "none.key"], "none.key"),
        (&["scripted:none.json", "--port", "0"], "cannot read none.json"),
    ];
    for (args, expected) in cases {
        let (well, text) = doctor(args);
        assert!(!well && text.contains("FAILED") && text.contains(expected), "{args:?}: {text}");
    }
}

/// On the device whose ops are candle's own, here the CPU.
#[test]
fn the_ops_of_a_device_are_checked() {
    let (well, text) =
        doctor(&["demo", "--port", "0", "--device", "cpu-generic", "--kernels", "--seed", "5"]);
    assert!(well && text.contains("checks passed on Cpu in candle's own ops"), "{text}");
    assert!(text.contains("seed 5") && text.contains("| attention, mixed | ok |"), "{text}");
}

#[test]
fn a_damaged_checkpoint_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/demo");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(format!("{demo}/{name}"), dir.path().join(name)).unwrap();
    }
    let weights = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let (well, text) = doctor(&[dir.path().to_str().unwrap(), "--port", "0"]);
    assert!(!well && text.contains("model.safetensors"), "{text}");
}
