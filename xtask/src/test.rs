//! Every test of the repository, in one command.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{command, setup};

/// Random turns through the parser and the event builders.
const MANY_TURNS: &str = "1000000";
/// Random requests to the server.
const MANY_REQUESTS: &str = "2400";

/// Rust tests, which also build the program, documentation examples, then the official SDKs against the
/// server in a network namespace that has only the loopback interface, what goes wrong around a server, and what is shipped
/// beside the program. `thorough` tries more random cases and waits for what takes minutes.
pub(crate) fn run(thorough: bool) -> Result<()> {
    if command::exists("cargo-nextest") {
        command::cargo(&["nextest", "run", "--workspace"])?;
    } else {
        command::cargo(&["test", "--workspace", "--lib", "--bins", "--tests"])?;
    }
    command::cargo(&["test", "--workspace", "--doc"])?;
    if thorough {
        many_turns()?;
    }
    clients(thorough)
}

/// The properties that hold for every turn, many times over, with what they run optimised: it is rebuilt for that.
/// The whole workspace is named, since a part of it would take other features of the dependencies and build them again.
fn many_turns() -> Result<()> {
    let packages = ["ossia-server", "ossia-harmony", "serde_json", "proptest"];
    let optimised: Vec<String> =
        packages.iter().map(|name| format!("profile.dev.package.{name}.opt-level=3")).collect();
    let config: Vec<&str> = optimised.iter().flat_map(|line| ["--config", line]).collect();
    let targets = ["--workspace", "--lib", "--test", "parser_properties", "--test", "random_weights"];
    let names = ["any_tokens_give_a_valid_turn", "any_token_ids_give_a_valid_stream", "noise_"];
    let filter = [&["--", "--include-ignored"], &names[..]].concat();
    command::cargo_with_env(
        &[&["test"], &config[..], &targets, &filter].concat(),
        &[("OSSIA_TEST_TURNS", MANY_TURNS)],
    )
}

fn clients(thorough: bool) -> Result<()> {
    let ready = setup::python().exists() && setup::has_javascript();
    ensure!(ready, "the clients are not installed: run `cargo xtask setup` first");
    let (many, minutes) = match thorough {
        true => (&["--fuzz-requests", MANY_REQUESTS][..], &["--thorough"][..]),
        false => (&[][..], &[][..]),
    };
    pytest(&[&["tests/clients"][..], many].concat())?;
    pytest(&[&["tests/faults"][..], minutes].concat())?;
    pytest(&["tests/packaging"])
}

/// Runs tests in Python that start the program that was built.
fn pytest(args: &[&str]) -> Result<()> {
    let mut line = vec![setup::python().into_os_string()];
    line.extend(["-m", "pytest", "-q"].iter().chain(args).map(Into::into));
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
