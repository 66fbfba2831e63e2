//! The real o200k_harmony tokenizer.json, without a download.
//!
//! Its rank file ships inside the tiktoken-rs crate, which the tests of ossia-harmony depend on, so cargo has it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ossia_harmony::Tokenizer;
use sha2::{Digest, Sha256};

/// Hash of o200k_base.tiktoken, the one that openai-harmony checks too.
const RANKS_SHA256: &str = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d";

/// Writes the o200k_harmony tokenizer to `out`, a tokenizer.json.
pub(crate) fn write_tokenizer(out: &Path) -> Result<()> {
    let tokenizer = Tokenizer::from_tiktoken_ranks(&read_ranks()?)?;
    std::fs::write(out, tokenizer.to_json()?).with_context(|| format!("cannot write {}", out.display()))
}

/// The rank file's bytes, checked.
fn read_ranks() -> Result<Vec<u8>> {
    let path = ranks_path()?;
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    ensure!(hash == RANKS_SHA256, "{} has sha256 {hash}, expected {RANKS_SHA256}", path.display());
    Ok(bytes)
}

/// Where cargo keeps tiktoken-rs's assets.
fn ranks_path() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let Some(package) = packages.iter().find(|package| package["name"] == "tiktoken-rs") else {
        bail!("tiktoken-rs is not among this workspace's dependencies");
    };
    let manifest = package["manifest_path"].as_str().context("tiktoken-rs has no manifest path")?;
    Ok(Path::new(manifest).with_file_name("assets").join("o200k_base.tiktoken"))
}
