//! `cargo xtask deny`: licences, sources and bans of everything we depend on, and on request known security faults.

use anyhow::{Result, ensure};

use crate::command;

const HOW: &str = "cargo-deny is not installed: `cargo install --locked cargo-deny`";

/// Checks with deny.toml. The list of known faults is fetched from its home, so it is not part of every run.
pub(crate) fn run(advisories: bool) -> Result<()> {
    ensure!(command::exists("cargo-deny"), HOW);
    check(&["licenses", "bans", "sources"], true)?;
    match advisories {
        true => check(&["advisories"], false),
        false => Ok(()),
    }
}

/// The same where the tool is there, and a line where it is not: compiling it takes CI longer than the check is worth.
#[allow(clippy::print_stdout)]
pub(crate) fn run_if_installed() -> Result<()> {
    if command::exists("cargo-deny") {
        return run(false);
    }
    println!("skipped: {HOW}");
    Ok(())
}

fn check(what: &[&str], offline: bool) -> Result<()> {
    let mut line = vec!["deny"];
    line.extend(offline.then_some("--offline"));
    line.extend(["check", "--hide-inclusion-graph"]);
    line.extend(what);
    command::cargo(&line)
}
