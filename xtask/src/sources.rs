//! Where cargo keeps the sources of a dependency.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::command;

/// The folder of the package `name` that the workspace uses with `features`.
pub(crate) fn of(name: &str, features: &str) -> Result<PathBuf> {
    let mut metadata = Command::new("cargo");
    metadata.args(["metadata", "--format-version", "1", "--features", features]);
    let output = metadata.current_dir(command::root()).output().context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let package = packages.iter().find(|package| package["name"] == name);
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest =
        PathBuf::from(manifest.with_context(|| format!("feature {features} no longer uses {name}"))?);
    manifest.parent().map(PathBuf::from).with_context(|| format!("the manifest of {name} has no folder"))
}
