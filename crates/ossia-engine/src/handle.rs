//! The door to a running engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use tokio::sync::{mpsc, watch};

use crate::progress::{Progress, StepInProgress};
use crate::sequence::{Sequence, SequenceId};
use crate::thread::{Command, Submission};
use crate::{EngineConfig, EngineStats, Generation, GenerationRequest, RunnerSpec, SubmitError};

/// A handle to a running engine; clones are cheap and all the same.
#[derive(Clone, Debug)]
pub struct EngineHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    commands: Sender<Command>,
    view: EngineView,
    spec: RunnerSpec,
    config: EngineConfig,
    next_id: AtomicU64,
    queue: Arc<AtomicUsize>,
}

/// What can be seen of the engine from outside its thread.
#[derive(Debug)]
pub(crate) struct EngineView {
    pub(crate) stats: watch::Receiver<EngineStats>,
    pub(crate) progress: Progress,
}

impl EngineHandle {
    pub(crate) fn new(
        commands: Sender<Command>,
        view: EngineView,
        spec: RunnerSpec,
        config: EngineConfig,
    ) -> Self {
        let (next_id, queue) = (AtomicU64::new(0), Arc::new(AtomicUsize::new(0)));
        Self(Arc::new(Shared { commands, view, spec, config, next_id, queue }))
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`SubmitError`] when the request could never run, when the queue is full or the engine is gone.
    pub fn submit(&self, request: GenerationRequest) -> Result<Generation, SubmitError> {
        let Shared { commands, spec, config, next_id, queue, .. } = &*self.0;
        request.validate(spec, config.max_model_len)?;
        let place = QueuePlace::take(queue, config.max_num_waiting)?;
        let id = SequenceId(next_id.fetch_add(1, Ordering::Relaxed));
        let (sender, events) = mpsc::unbounded_channel();
        // The prompt is hashed here, in the caller's thread, so that a long one holds up nobody.
        let sequence = Sequence::new(id, request, spec.block_size, config.max_model_len)
            .with_drafts(config.num_speculative_tokens);
        let submission = Submission { sequence, events: sender, place };
        commands.send(Command::Submit(Box::new(submission))).map_err(|_| SubmitError::Closed)?;
        Ok(Generation::new(id, events, commands.clone()))
    }

    /// Figures of the last step.
    pub fn stats(&self) -> EngineStats {
        *self.0.view.stats.borrow()
    }

    /// The step that the engine is at; `None` between two steps.
    pub fn step_in_progress(&self) -> Option<StepInProgress> {
        self.0.view.progress.get()
    }

    /// Whether the engine thread still takes requests.
    pub fn is_alive(&self) -> bool {
        self.0.view.stats.has_changed().is_ok()
    }

    /// Sizes of the model and of its KV cache.
    pub fn spec(&self) -> RunnerSpec {
        self.0.spec
    }

    /// The limits in force: `max_model_len` is what the model and the block pool allow.
    pub fn config(&self) -> EngineConfig {
        self.0.config
    }
}

/// A place in the waiting queue, given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct QueuePlace(Arc<AtomicUsize>);

impl QueuePlace {
    fn take(queue: &Arc<AtomicUsize>, max: usize) -> Result<Self, SubmitError> {
        queue
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < max).then_some(taken + 1))
            .map(|_| Self(Arc::clone(queue)))
            .map_err(|_| SubmitError::QueueFull { max })
    }
}

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
