//! Lets helpers into a job while it runs, and lets its owner go home without those who never came.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Set when the owner lets nobody in any more; the rest of the word counts who is inside.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// What a helper that panicked left behind.
type Panic = Box<dyn Any + Send>;

/// The door of one job.
#[derive(Default)]
pub(super) struct Gate {
    state: AtomicUsize,
    panic: Mutex<Option<Panic>>,
}

impl Gate {
    /// Runs `work` if the gate is open, and keeps its panic for the owner.
    pub(super) fn help(&self, work: impl FnOnce()) {
        let enter = |state| (state & CLOSED == 0).then_some(state + 1);
        if self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, enter).is_err() {
            return;
        }
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.state.fetch_sub(1, Ordering::AcqRel);
    }

    /// Lets nobody in any more and waits for those inside, who are at their last task.
    pub(super) fn close(&self) {
        const SPINS: usize = 10_000;
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        for spin in 0.. {
            if self.state.load(Ordering::Acquire) == CLOSED {
                return;
            }
            if spin < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }

    /// The panic of a helper, if one panicked.
    pub(super) fn take_panic(&self) -> Option<Panic> {
        self.panic.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Closes the gate when dropped, also while the owner panics.
pub(super) struct CloseOnDrop<'a>(pub(super) &'a Gate);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}
