//! Every test of the repository, in one command.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{command, setup};

/// Rust tests, which also build the program, documentation examples, then the official SDKs against the
/// server in a network namespace that has only the loopback interface.
pub(crate) fn run() -> Result<()> {
    if command::exists("cargo-nextest") {
        command::cargo(&["nextest", "run", "--workspace"])?;
    } else {
        command::cargo(&["test", "--workspace", "--lib", "--bins", "--tests"])?;
    }
    command::cargo(&["test", "--workspace", "--doc"])?;
    clients()
}

fn clients() -> Result<()> {
    ensure!(setup::python().exists(), "no .venv: run `cargo xtask setup` first");
    let python = setup::python();
    let pytest = ["-m", "pytest", "-q", "tests/clients"].map(Into::into);
    let mut line = vec![python.into_os_string()];
    line.extend(pytest);
    // Clients and server talk over loopback only; where namespaces are not allowed they run without one.
    if isolated(&["true".into()]).status().is_ok_and(|status| status.success()) {
        return command::run(&mut isolated(&line));
    }
    let mut plain = Command::new(&line[0]);
    command::run(plain.args(&line[1..]))
}

/// `line` in a new network namespace with loopback up.
fn isolated(line: &[std::ffi::OsString]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "python3", "tests/clients/loopback_up.py"]).args(line);
    command
}
