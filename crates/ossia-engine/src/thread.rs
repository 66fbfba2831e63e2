//! The engine's thread: it owns the engine, takes commands between two steps, and sleeps when idle.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::handle::{EngineView, QueuePlace};
use crate::progress::Progress;
use crate::runner::panic_message;
use crate::sequence::{Sequence, SequenceId};
use crate::{Engine, EngineConfig, EngineError, EngineHandle, EngineStats, GenerationEvent, ModelRunner};

/// What the engine thread is told.
#[derive(Debug)]
pub(crate) enum Command {
    Submit(Box<Submission>),
    Abort(SequenceId),
    Shutdown,
}

/// A request on its way to the engine.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) sequence: Sequence,
    pub(crate) events: UnboundedSender<GenerationEvent>,
    pub(crate) place: QueuePlace,
}

/// A running engine. Dropping it shuts the engine down and waits for the step in progress.
#[derive(Debug)]
pub struct EngineThread {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts an engine in a thread of its own.
    ///
    /// # Errors
    /// [`EngineError`] when a limit is zero, the block pool holds no sequence of two tokens, or the
    /// thread could not be started.
    pub fn start(
        runner: Box<dyn ModelRunner>,
        config: EngineConfig,
    ) -> Result<(EngineHandle, EngineThread), EngineError> {
        let spec = runner.spec();
        let config = config.for_runner(&spec)?;
        let initial = EngineStats {
            num_blocks_total: spec.num_blocks,
            num_blocks_free: spec.num_blocks,
            ..EngineStats::default()
        };
        let (stats_sender, stats) = watch::channel(initial);
        let (sender, commands) = mpsc::channel();
        let progress = Progress::default();
        let engine = Self::new(runner, &config, stats_sender, progress.clone());
        let thread = std::thread::Builder::new()
            .name("ossia-engine".to_owned())
            .spawn(move || run(engine, &commands))
            .map_err(EngineError::Thread)?;
        let view = EngineView { stats, progress };
        let handle = EngineHandle::new(sender.clone(), view, spec, config);
        Ok((handle, EngineThread { commands: sender, thread: Some(thread) }))
    }
}

impl EngineThread {
    /// Ends every request as failed and waits for the thread to end.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for EngineThread {
    fn drop(&mut self) {
        // Either send or join fails only when the thread has ended already.
        let _ = self.commands.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(mut engine: Engine, commands: &Receiver<Command>) {
    while let Some(command) = next_command(&engine, commands) {
        if matches!(command, Some(Command::Shutdown)) {
            break;
        }
        // Panics of the model and of constraints are caught where they are called; this is for all others.
        let done = catch_unwind(AssertUnwindSafe(|| obey(&mut engine, command)));
        if let Err(panic) = done {
            engine.rebuild(&panic_message(&*panic));
        }
    }
    engine.fail_all("the engine is shutting down");
}

fn obey(engine: &mut Engine, command: Option<Command>) {
    match command {
        Some(Command::Submit(submission)) => engine.submit(*submission),
        Some(Command::Abort(id)) => engine.abort(id),
        Some(Command::Shutdown) => {}
        None => engine.step(),
    }
}

/// The next command: waits for one when idle, else `Some(None)` when there is none. `None` when nobody can
/// send one any more.
fn next_command(engine: &Engine, commands: &Receiver<Command>) -> Option<Option<Command>> {
    if engine.is_idle() {
        return commands.recv().ok().map(Some);
    }
    match commands.try_recv() {
        Ok(command) => Some(Some(command)),
        Err(mpsc::TryRecvError::Empty) => Some(None),
        Err(mpsc::TryRecvError::Disconnected) => None,
    }
}
