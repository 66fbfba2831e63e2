//! Logs go to stderr, so that stdout stays what a command answers.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::cli::{LogArgs, LogFormat};

/// Logs of `serve`, as its settings say.
///
/// # Errors
/// The filter cannot be read.
pub(crate) fn init(args: &LogArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("cannot read the log filter '{}' (--log)", args.log))?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal());
    match args.log_format {
        LogFormat::Human => lines.with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Logs of the other commands: `OSSIA_LOG`, else what is worth knowing.
pub(crate) fn init_from_env() {
    let filter = EnvFilter::try_from_env("OSSIA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_target(false)
        .with_ansi(stderr().is_terminal())
        .init();
}
