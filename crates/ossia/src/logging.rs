//! Logs go to stderr, so that stdout stays what a command answers.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, filter_fn};
use tracing_subscriber::layer::{Filter, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, registry};

use crate::cli::{LogArgs, LogFormat};

/// Logs of `serve`, as its settings say.
///
/// # Errors
/// The filter cannot be read.
pub(crate) fn init(args: &LogArgs) -> Result<()> {
    let filter = EnvFilter::try_new(&args.log)
        .with_context(|| format!("cannot read the log filter '{}' (--log)", args.log))?;
    let lines = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    match args.log_format {
        LogFormat::Human => {
            registry().with(lines.with_target(false).with_filter(fit_for_logs(filter))).init()
        }
        LogFormat::Json => {
            registry().with(lines.json().flatten_event(true).with_filter(fit_for_logs(filter))).init()
        }
    }
    Ok(())
}

/// Logs of the other commands: `OSSIA_LOG`, else what is worth knowing.
pub(crate) fn init_from_env() {
    let filter = EnvFilter::try_from_env("OSSIA_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt::layer().with_writer(stderr).with_target(false).with_ansi(stderr().is_terminal());
    registry().with(lines.with_filter(fit_for_logs(filter))).init();
}

/// What `filter` lets through, without what never belongs in a log.
fn fit_for_logs(filter: EnvFilter) -> impl Filter<Registry> + Send + Sync + 'static {
    filter.and(filter_fn(|metadata| !is_wire(metadata)))
}

/// Whether an event shows what goes over a connection: ureq writes every byte at TRACE, credentials among them.
fn is_wire(metadata: &Metadata<'_>) -> bool {
    *metadata.level() == Level::TRACE && metadata.target().starts_with("ureq")
}
