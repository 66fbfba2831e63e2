//! Tokenizers for tests: the real o200k_harmony, and a small one.
#![allow(dead_code, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use base64::Engine;
use ossia_harmony::Tokenizer;
use sha2::{Digest, Sha256};

/// The folder of tiktoken-rs's assets, which holds o200k_base.tiktoken.
pub(crate) fn ranks_folder() -> PathBuf {
    let note = Path::new(env!("CARGO_TARGET_TMPDIR")).join("o200k_ranks_folder");
    if let Ok(folder) = std::fs::read_to_string(&note)
        && Path::new(&folder).join("o200k_base.tiktoken").is_file()
    {
        return folder.into();
    }
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let tiktoken = packages.iter().find(|package| package["name"] == "tiktoken-rs").unwrap();
    let manifest = Path::new(tiktoken["manifest_path"].as_str().unwrap());
    let folder = manifest.with_file_name("assets");
    std::fs::write(&note, folder.to_str().unwrap()).unwrap();
    folder
}

/// o200k_base's rank file, checked.
pub(crate) fn ranks() -> Vec<u8> {
    let bytes = std::fs::read(ranks_folder().join("o200k_base.tiktoken")).unwrap();
    let hash = Sha256::digest(&bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    });
    assert_eq!(hash, "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d");
    bytes
}

/// The real o200k_harmony vocabulary.
pub(crate) fn o200k() -> Tokenizer {
    static TOKENIZER: LazyLock<Tokenizer> =
        LazyLock::new(|| Tokenizer::from_tiktoken_ranks(&ranks()).unwrap());
    TOKENIZER.clone()
}

/// A vocabulary of 256 bytes and a few words, which cuts header words in places where o200k does not.
pub(crate) fn small() -> Tokenizer {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
        let words = [
            "an", "al", "ana", "com", "en", "ment", "fin", "to", " to", "get", "_w", "json", "so", "he",
            "ss", "ass",
        ];
        let bytes = (0..=255u8).map(|byte| vec![byte]);
        let tokens = bytes.chain(words.iter().map(|word| word.as_bytes().to_vec()));
        let mut file = String::new();
        for (rank, token) in tokens.enumerate() {
            writeln!(file, "{} {rank}", base64::engine::general_purpose::STANDARD.encode(token)).unwrap();
        }
        Tokenizer::from_tiktoken_ranks(file.as_bytes()).unwrap()
    });
    TOKENIZER.clone()
}
