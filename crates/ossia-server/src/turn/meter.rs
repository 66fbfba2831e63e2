//! What one turn takes: its times, its tokens, and how it ended, for the limits, the metrics and the audit log.

use std::time::Instant;

use ossia_engine::{FinishReason, GenerationEvent};

use crate::access::Admission;
use crate::metrics::TurnTimes;

/// Follows one turn. Dropped before the turn has ended, it notes that nobody waited for the rest.
pub(crate) struct TurnMeter {
    admission: Admission,
    submitted: Instant,
    started: Option<Instant>,
    first_token: Option<Instant>,
    last_token: Option<Instant>,
    times: TurnTimes,
    outcome: Option<&'static str>,
    /// What was generated, if the audit log wants it.
    token_ids: Vec<u32>,
}

impl TurnMeter {
    /// A turn that is submitted now.
    pub(super) fn new(admission: Admission) -> Self {
        Self {
            admission,
            submitted: Instant::now(),
            started: None,
            first_token: None,
            last_token: None,
            times: TurnTimes::default(),
            outcome: None,
            token_ids: Vec::new(),
        }
    }

    /// Takes note of what the engine did.
    pub(super) fn note(&mut self, event: &GenerationEvent) {
        let now = Instant::now();
        match event {
            GenerationEvent::Started { num_prompt_tokens, num_cached_tokens } => {
                self.started = Some(now);
                self.times.num_prompt_tokens = *num_prompt_tokens;
                self.times.num_cached_tokens = *num_cached_tokens;
                self.admission.caller().take_tokens(*num_prompt_tokens);
            }
            GenerationEvent::Token(token) => self.note_token(token.id, now),
            GenerationEvent::Finished(reason) => self.end(match reason {
                FinishReason::Stop => "stop",
                FinishReason::Length => "length",
                FinishReason::Failed(_) => "error",
            }),
        }
    }

    fn note_token(&mut self, id: u32, now: Instant) {
        let metrics = self.admission.metrics();
        match self.last_token.replace(now) {
            None => {
                self.first_token = Some(now);
                metrics.note_first_token((now - self.submitted).as_secs_f64());
            }
            Some(last) => metrics.note_token((now - last).as_secs_f64()),
        }
        self.times.num_generated_tokens += 1;
        self.admission.caller().take_tokens(1);
        if self.admission.wants_contents() {
            self.token_ids.push(id);
        }
    }

    /// The turn has ended; what it ended with first counts.
    pub(super) fn end(&mut self, outcome: &'static str) {
        self.outcome.get_or_insert(outcome);
    }
}

impl Drop for TurnMeter {
    fn drop(&mut self) {
        let between = |from: Option<Instant>, to: Option<Instant>| Some(to? - from?);
        self.times.queued = between(Some(self.submitted), self.started);
        self.times.prefill = between(self.started, self.first_token);
        self.times.decode = between(self.first_token, self.last_token);
        self.times.total = self.submitted.elapsed();
        let token_ids = std::mem::take(&mut self.token_ids);
        self.admission.note_turn(self.outcome.unwrap_or("abort"), &self.times, token_ids);
    }
}
