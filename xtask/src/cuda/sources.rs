//! Where cargo keeps the sources of a dependency.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command;

/// The folder of the cudarc that candle uses.
pub(super) fn cudarc() -> Result<PathBuf> {
    let mut metadata = Command::new("cargo");
    metadata.args(["metadata", "--format-version", "1", "--features", "ossia/cuda"]);
    let output = metadata.current_dir(command::root()).output().context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let cudarc = packages.iter().find(|package| package["name"] == "cudarc");
    let manifest = cudarc.and_then(|package| package["manifest_path"].as_str());
    let manifest = PathBuf::from(manifest.context("candle's cuda feature no longer uses cudarc")?);
    manifest.parent().map(PathBuf::from).context("cudarc's manifest has no folder")
}
