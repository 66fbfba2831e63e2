//! What a request yields when it is alone: no batch, no blocks, no schedule.

use std::sync::{Arc, Mutex};

use super::fake_runner::{EMPTY, extend, logits};
use super::schedule::Schedule;
use crate::sequence::{Sequence, SequenceId};
use crate::{AllowedTokens, FinishReason, GenerationRequest, TokenConstraint};

/// Tokens and end of a request.
pub(super) type Reply = (Vec<u32>, FinishReason);

/// The reply of the fake model of `schedule` to `request`.
pub(super) fn alone(request: GenerationRequest, schedule: &Schedule) -> Reply {
    let mut seq = Sequence::new(SequenceId(0), request, 1, schedule.config.max_model_len);
    let mut tokens = Vec::new();
    loop {
        let first_seen = if schedule.repetitive { seq.num_tokens() - 1 } else { 0 };
        let seen = &seq.token_ids()[first_seen..];
        let context = seen.iter().fold(EMPTY, |context, &token| extend(context, token));
        let mut row: Vec<f32> = logits(context, schedule.spec.vocab_size).collect();
        let sampled = crate::sampler::sample_row((&mut seq, &mut row));
        tokens.push(sampled.expect("something is allowed").id);
        if let Some(reason) = seq.finish_reason() {
            return (tokens, reason);
        }
    }
}

/// Forbids tokens that depend on how many were accepted and which: fed twice, or not at all, it lets
/// other tokens through than it should. Keeps a record.
#[derive(Debug, Default)]
pub(super) struct History {
    context: u64,
    forbidden: Vec<u32>,
    accepted: Record,
}

/// The tokens that a constraint was fed.
pub(super) type Record = Arc<Mutex<Vec<u32>>>;

impl History {
    pub(super) fn new(accepted: Record) -> Self {
        Self { accepted, ..Self::default() }
    }
}

impl TokenConstraint for History {
    fn allowed(&mut self) -> AllowedTokens<'_> {
        self.forbidden = (0..8).map(|shift| (self.context >> shift & 31) as u32).collect();
        AllowedTokens::Except(&self.forbidden)
    }

    fn accept(&mut self, token: u32) {
        self.context = extend(self.context, token);
        self.accepted.lock().expect("nobody panics with the record").push(token);
    }
}
