//! Set-up of a fresh machine beyond Rust: PostgreSQL, the Python environment in which the official SDKs are tested, and
//! the JavaScript clients, which run on the node that this environment carries.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{command, cuda};

const REQUIREMENTS: &str = "tests/clients/requirements.txt";
const JAVASCRIPT: &str = "tests/clients/node";

/// The Python of the test environment.
pub(crate) fn python() -> PathBuf {
    command::root().join(".venv/bin/python")
}

/// PostgreSQL, on which the tests of the store run besides SQLite; from the system's packages where there are such.
fn postgres() -> Result<()> {
    let installed =
        std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| versions.next().is_some());
    if installed || command::exists("initdb") {
        return Ok(());
    }
    if !command::exists("apt-get") {
        eprintln!("install PostgreSQL to test the store on it");
        return Ok(());
    }
    command::run(Command::new("apt-get").arg("update"))?;
    command::run(Command::new("apt-get").args(["install", "--yes", "--no-install-recommends", "postgresql"]))
}

/// Whether the JavaScript clients are there.
pub(crate) fn has_javascript() -> bool {
    command::root().join(JAVASCRIPT).join("node_modules").exists()
}

/// The CUDA compiler, with which CI compiles our kernels. Only Linux on x86-64 has the wheels and the stand-ins.
fn cuda() -> Result<()> {
    match cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        true => cuda::lay_out_once(&cuda::default_home()),
        false => Ok(()),
    }
}

/// Creates `.venv` and installs the pinned packages; a second run changes nothing.
pub(crate) fn run() -> Result<()> {
    postgres()?;
    cuda()?;
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
    ]))?;
    let npm = command::root().join(".venv/bin/npm");
    command::run(Command::new(npm).args([
        "ci",
        "--prefix",
        JAVASCRIPT,
        "--no-audit",
        "--no-fund",
        "--loglevel=error",
    ]))
}
