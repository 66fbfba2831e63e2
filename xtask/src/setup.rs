//! Set-up of a fresh machine beyond Rust: the Python environment in which the official SDKs are tested.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::command;

const REQUIREMENTS: &str = "tests/clients/requirements.txt";

/// The Python of the test environment.
pub(crate) fn python() -> PathBuf {
    command::root().join(".venv/bin/python")
}

/// Creates `.venv` and installs the pinned packages; a second run changes nothing.
pub(crate) fn run() -> Result<()> {
    if !python().exists() {
        command::run(Command::new("python3").args(["-m", "venv", ".venv"]))?;
    }
    command::run(Command::new(python()).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
        REQUIREMENTS,
    ]))
}
