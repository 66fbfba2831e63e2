//! Where the threads of several ranks exchange tensors on the CPU: each brings one, waits until all have, and takes all.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;

use crate::{KernelError, Result};

/// One meeting after the other of `size` ranks.
#[derive(Debug)]
pub(super) struct Meeting {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// What each rank brought to the meeting that is on.
    brought: Vec<Option<Tensor>>,
    /// Ranks that have still to take what all brought; none while they are bringing.
    taking: usize,
    given_up: bool,
}

impl Meeting {
    pub(super) fn new(size: usize) -> Self {
        let state = State { brought: vec![None; size], taking: 0, given_up: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// What every rank brought, in their order.
    pub(super) fn exchange(&self, rank: usize, tensor: Tensor) -> Result<Vec<Tensor>> {
        // Those who are late for the meeting before take theirs first.
        let mut state = self.wait(self.lock(), |state| state.taking == 0)?;
        state.brought[rank] = Some(tensor);
        if state.brought.iter().all(Option::is_some) {
            state.taking = state.brought.len();
            self.changed.notify_all();
        }
        let mut state = self.wait(state, |state| state.taking > 0)?;
        let all = state.brought.iter().flatten().cloned().collect();
        state.taking -= 1;
        if state.taking == 0 {
            state.brought.fill(None);
            self.changed.notify_all();
        }
        Ok(all)
    }

    /// Sends everybody home, who is here and who will come.
    pub(super) fn give_up(&self) {
        self.lock().given_up = true;
        self.changed.notify_all();
    }

    /// Forgets what was; nobody may be here.
    pub(super) fn begin_anew(&self) {
        let mut state = self.lock();
        *state = State { brought: vec![None; state.brought.len()], taking: 0, given_up: false };
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        mut state: MutexGuard<'a, State>,
        is_time: impl Fn(&State) -> bool,
    ) -> Result<MutexGuard<'a, State>> {
        loop {
            if state.given_up {
                return Err(KernelError::GaveUp);
            }
            if is_time(&state) {
                return Ok(state);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
