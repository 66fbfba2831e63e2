//! A request that generates, from its admission to the end of its last turn.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ossia_harmony::Tokenizer;

use super::{Caller, lock};
use crate::audit::Audit;
use crate::metrics::{Metrics, TurnTimes};
use crate::state::AppState;
use crate::wire::audit::AuditRecord;

/// A request that was let in. Clones are the same request; it is over when the last is dropped.
#[derive(Clone)]
pub(crate) struct Admission(Arc<Admitted>);

struct Admitted {
    caller: Caller,
    model: String,
    begun: Instant,
    max_queue: Option<Duration>,
    max_output_tokens: usize,
    metrics: Metrics,
    audit: Audit,
    tokenizer: Tokenizer,
    turns: Mutex<Turns>,
}

/// What the turns of a request took together.
#[derive(Default)]
struct Turns {
    prompt: Option<String>,
    num_prompt_tokens: usize,
    num_cached_tokens: usize,
    num_generated_tokens: usize,
    outcomes: Vec<&'static str>,
    answers: Vec<String>,
}

impl Admission {
    pub(super) fn new(caller: Caller, state: &AppState, model: &str) -> Self {
        Self(Arc::new(Admitted {
            caller,
            model: model.to_owned(),
            begun: Instant::now(),
            max_queue: state.config().max_queue,
            max_output_tokens: state.config().max_output_tokens.unwrap_or(usize::MAX),
            metrics: state.metrics().clone(),
            audit: state.audit().clone(),
            tokenizer: state.tokenizer().clone(),
            turns: Mutex::default(),
        }))
    }

    /// Who asked.
    pub(crate) fn caller(&self) -> &Caller {
        &self.0.caller
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Whether the audit log wants prompts and answers.
    pub(crate) fn wants_contents(&self) -> bool {
        self.0.audit.wants_contents()
    }

    /// Longest wait for the engine to take up a turn.
    pub(crate) fn max_queue(&self) -> Option<Duration> {
        self.0.max_queue
    }

    /// Most tokens of an answer.
    pub(crate) fn max_output_tokens(&self) -> usize {
        self.0.max_output_tokens
    }

    /// Takes note of a prompt, for the audit log if it wants it.
    pub(crate) fn note_prompt(&self, token_ids: &[u32]) {
        if self.wants_contents() {
            lock(&self.0.turns).prompt.get_or_insert_with(|| self.0.tokenizer.decode(token_ids));
        }
    }

    /// Takes note of a turn that is over.
    pub(crate) fn note_turn(&self, outcome: &'static str, times: &TurnTimes, token_ids: Vec<u32>) {
        self.0.metrics.note_turn(&self.0.caller.tenant().0, outcome, times);
        let is_completion = self.0.caller.request().ends_with("/v1/completions");
        let operation = if is_completion { "text_completion" } else { "chat" };
        self.0.caller.span().add_turn(operation, &self.0.model, outcome, times);
        let mut turns = lock(&self.0.turns);
        turns.num_prompt_tokens += times.num_prompt_tokens;
        turns.num_cached_tokens += times.num_cached_tokens;
        turns.num_generated_tokens += times.num_generated_tokens;
        turns.outcomes.push(outcome);
        if self.wants_contents() {
            turns.answers.push(self.0.tokenizer.decode(&token_ids));
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.caller.end();
        let turns = std::mem::take(&mut *lock(&self.turns));
        if turns.outcomes.is_empty() {
            return; // it was refused after all, which is noted elsewhere
        }
        let tenant = self.caller.tenant();
        self.audit.write(AuditRecord {
            request_id: self.caller.request_id(),
            key: self.caller.key_id(),
            tenant: &tenant.0,
            request: self.caller.request(),
            model: Some(&self.model),
            prompt_tokens: turns.num_prompt_tokens,
            cached_tokens: turns.num_cached_tokens,
            completion_tokens: turns.num_generated_tokens,
            outcome: turns.outcomes,
            duration_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            prompt: turns.prompt.as_deref(),
            answers: turns.answers,
            ..AuditRecord::default()
        });
    }
}
