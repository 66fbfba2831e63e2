//! Set-up of a fresh machine beyond Rust: cargo's dependencies, Debian's packages, the Python environment in which the
//! official SDKs are tested, and the JavaScript clients, which run on the node that this environment carries.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{aarch64, command};

const REQUIREMENTS: &str = "tests/clients/requirements.txt";
const JAVASCRIPT: &str = "tests/clients/node";

/// The Python of the test environment.
pub(crate) fn python() -> PathBuf {
    command::root().join(".venv/bin/python")
}

/// What tests need of Debian's packages, each with a path that tells whether it is there: PostgreSQL, on which the store is
/// tested besides SQLite, libfaketime, which moves the clock, strace for what servers do with sockets, and Go with the
/// templates of Helm charts.
const PACKAGES: [(&str, &str); 6] = [
    ("postgresql", "/usr/lib/postgresql"),
    ("libfaketime", "/usr/lib/x86_64-linux-gnu/faketime"),
    ("strace", "/usr/bin/strace"),
    ("golang-go", "/usr/bin/go"),
    ("golang-github-masterminds-sprig-dev", "/usr/share/gocode/src/github.com/Masterminds/sprig"),
    ("golang-k8s-sigs-yaml-dev", "/usr/share/gocode/src/sigs.k8s.io/yaml"),
];

/// Installs what is missing, where there are such packages.
fn packages() -> Result<()> {
    let is_missing = |path: &str| !Path::new(path).exists();
    let mut missing: Vec<&str> =
        PACKAGES.iter().filter(|(_, path)| is_missing(path)).map(|(name, _)| *name).collect();
    // It may come from elsewhere.
    missing.retain(|name| *name != "postgresql" || !command::exists("initdb"));
    if missing.is_empty() {
        return Ok(());
    }
    if !command::exists("apt-get") {
        eprintln!("without these some tests are skipped: {}", missing.join(", "));
        return Ok(());
    }
    command::run(Command::new("apt-get").arg("update"))?;
    let mut install = Command::new("apt-get");
    command::run(install.args(["install", "--yes", "--no-install-recommends"]).args(missing))
}

/// Whether the JavaScript clients are there.
pub(crate) fn has_javascript() -> bool {
    command::root().join(JAVASCRIPT).join("node_modules").exists()
}

/// Creates `.venv` and installs the pinned packages; a second run changes nothing.
pub(crate) fn run() -> Result<()> {
    // Dependencies of every platform, not of this one alone: a test asks cargo, offline, where one of them lies.
    command::run(Command::new("cargo").args(["fetch", "--locked"]))?;
    packages()?;
    aarch64::add_target();
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
