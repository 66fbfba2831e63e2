//! What the engine thread is doing, for whoever watches over it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A step that has begun and not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepInProgress {
    /// Number of the step, counted from 1.
    pub number: u64,
    /// When it began.
    pub started: Instant,
    /// What is being done.
    pub phase: StepPhase,
    /// Sequences of its forward pass.
    pub num_seqs: usize,
    /// Tokens of its forward pass.
    pub num_tokens: usize,
}

/// The parts of a step, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepPhase {
    /// Choosing what to compute.
    Schedule,
    /// The forward pass.
    Run,
    /// Choosing tokens.
    Sample,
    /// Telling the callers.
    Publish,
}

impl fmt::Display for StepPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Schedule => "scheduling",
            Self::Run => "computing",
            Self::Sample => "sampling",
            Self::Publish => "publishing",
        })
    }
}

/// Where the engine says what it does. Clones are the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Mutex<Option<StepInProgress>>>);

impl Progress {
    pub(crate) fn begin(&self, number: u64) {
        let (started, phase) = (Instant::now(), StepPhase::Schedule);
        self.set(Some(StepInProgress { number, started, phase, num_seqs: 0, num_tokens: 0 }));
    }

    /// The pass is known.
    pub(crate) fn run(&self, num_seqs: usize, num_tokens: usize) {
        self.change(|step| {
            (step.phase, step.num_seqs, step.num_tokens) = (StepPhase::Run, num_seqs, num_tokens)
        });
    }

    pub(crate) fn phase(&self, phase: StepPhase) {
        self.change(|step| step.phase = phase);
    }

    pub(crate) fn end(&self) {
        self.set(None);
    }

    pub(crate) fn get(&self) -> Option<StepInProgress> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, step: Option<StepInProgress>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    fn change(&self, change: impl FnOnce(&mut StepInProgress)) {
        if let Some(step) = self.0.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            change(step);
        }
    }
}
