//! The CPU kernels of another processor, checked where its standard library can be had: they need no machine of its own for that.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::command;

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Asks rustup for the target's standard library, where there is rustup; without it nothing but the check is missing.
pub(crate) fn add_target() {
    let added = Command::new("rustup").args(["target", "add", TARGET]).status();
    if !added.is_ok_and(|status| status.success()) {
        eprintln!("rustup adds no target {TARGET}: the NEON kernels will not be checked");
    }
}

/// Clippy over the kernels and their tests.
pub(crate) fn check() -> Result<()> {
    let libraries = command::output("rustc", &["--print", "target-libdir", "--target", TARGET])?;
    if !Path::new(libraries.trim()).exists() {
        eprintln!("no target {TARGET}: the NEON kernels are not checked (rustup target add {TARGET})");
        return Ok(());
    }
    let package = ["clippy", "--target", TARGET, "--package", "ossia-kernels", "--all-targets"];
    command::cargo(&[&package[..], &["--", "-D", "warnings"]].concat())
}
