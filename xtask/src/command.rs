//! Running other programs from the repository's root, failing when they fail.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Runs `cargo` with `args`.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    cargo_with_env::<&str>(args, &[])
}

/// Runs `cargo` with `args` and environment variables over ours.
pub(crate) fn cargo_with_env<V: AsRef<OsStr>>(args: &[&str], env: &[(&str, V)]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(args).envs(env.iter().map(|(name, value)| (name, value)));
    run(&mut command)
}

/// Runs a command at the root; an error says what was run and how it ended.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    command.current_dir(root());
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}

/// What a command prints at the root.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).current_dir(root()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{program} ended with {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("the output of {program} is not UTF-8"))
}

/// Whether `program --version` works.
pub(crate) fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
