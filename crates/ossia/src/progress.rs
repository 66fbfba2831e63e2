//! Progress of downloads and of loading: a bar on a terminal, a log line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Pause between two log lines.
const LOG_EVERY: Duration = Duration::from_secs(5);

/// Reports how many bytes of a whole are done.
pub(crate) enum Progress {
    /// A terminal is watching.
    Bar(ProgressBar),
    /// A log file is watching.
    Log(LogProgress),
}

/// Progress that is written down every few seconds.
pub(crate) struct LogProgress {
    what: String,
    total: u64,
    done: u64,
    last_line: Instant,
}

impl Progress {
    /// Progress of `what`, `total` bytes long.
    pub(crate) fn new(what: &str, total: u64) -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total).with_message(what.to_owned());
            bar.set_style(bar_style());
            return Self::Bar(bar);
        }
        Self::Log(LogProgress { what: what.to_owned(), total, done: 0, last_line: Instant::now() })
    }

    /// `bytes` more are done.
    pub(crate) fn advance(&mut self, bytes: u64) {
        match self {
            Self::Bar(bar) => bar.inc(bytes),
            Self::Log(log) => log.set(log.done + bytes),
        }
    }

    /// `done` bytes are done in all.
    pub(crate) fn set(&mut self, done: u64) {
        match self {
            Self::Bar(bar) => bar.set_position(done),
            Self::Log(log) => log.set(done),
        }
    }

    /// All is done.
    pub(crate) fn finish(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish();
        }
    }
}

impl LogProgress {
    fn set(&mut self, done: u64) {
        self.done = done;
        if self.last_line.elapsed() >= LOG_EVERY {
            self.last_line = Instant::now();
            tracing::info!("{}: {} of {}", self.what, HumanBytes(self.done), HumanBytes(self.total));
        }
    }
}

fn bar_style() -> ProgressStyle {
    let template = "{msg:30} [{wide_bar}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
