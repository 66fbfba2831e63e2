//! The real o200k_harmony vocabulary, from the rank file that the tiktoken-rs package carries, whole and cut.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use ossia_harmony::Tokenizer;

/// One tokenizer for all tests of a process.
pub(crate) fn o200k() -> Tokenizer {
    static TOKENIZER: LazyLock<Tokenizer> =
        LazyLock::new(|| Tokenizer::from_tiktoken_ranks(&std::fs::read(rank_file()).unwrap()).unwrap());
    TOKENIZER.clone()
}

/// The first tokens of it, which load ten times faster: enough for most tests.
pub(crate) fn small() -> Tokenizer {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        Tokenizer::from_tiktoken_ranks_sized(&std::fs::read(rank_file()).unwrap(), 20_000).unwrap()
    });
    TOKENIZER.clone()
}

/// Where cargo keeps the file.
fn rank_file() -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let tiktoken = packages.iter().find(|package| package["name"] == "tiktoken-rs").unwrap();
    Path::new(tiktoken["manifest_path"].as_str().unwrap())
        .with_file_name("assets")
        .join("o200k_base.tiktoken")
}
