//! Signals, and the service manager that waits for word.

use std::time::Duration;

use anyhow::{Context, Result};
use ossia_engine::EngineHandle;

/// The wish to end: SIGINT, or SIGTERM where there is one.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    /// Listens from now on; a signal that comes before anybody waits is not lost.
    #[cfg(unix)]
    pub(crate) fn new() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let failed = "cannot listen to signals";
        let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        Ok(Self { interrupt: interrupt.context(failed)?, terminate: terminate.context(failed)? })
    }

    #[cfg(not(unix))]
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {})
    }

    /// The next signal.
    #[cfg(unix)]
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    #[cfg(not(unix))]
    pub(crate) async fn next(&mut self) {
        // Without a handler there is nothing to wait for; the default action ends the process.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Requests are served.
    Ready,
    /// The end has begun.
    Stopping,
}

/// Tells the service manager, if there is one (`NOTIFY_SOCKET`).
pub(crate) fn notify(state: State) {
    #[cfg(unix)]
    {
        let state = match state {
            State::Ready => sd_notify::NotifyState::Ready,
            State::Stopping => sd_notify::NotifyState::Stopping,
        };
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }
    #[cfg(not(unix))]
    let _ = state;
}

/// Tells a service manager that wants to know it (`WatchdogSec=`) that the server is alive, as long as no step of the
/// engine takes longer than `bound`.
pub(crate) async fn report_alive(engine: EngineHandle, bound: Duration) {
    #[cfg(unix)]
    if let Some(interval) = sd_notify::watchdog_enabled() {
        loop {
            let is_stuck = engine.step_in_progress().is_some_and(|step| step.started.elapsed() > bound);
            if engine.is_alive() && !is_stuck {
                // One that cannot be told draws its own conclusion.
                let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
            }
            tokio::time::sleep(interval / 2).await;
        }
    }
    #[cfg(not(unix))]
    let _ = (engine, bound);
}
