//! The engine: one forward pass after another.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use ossia_model::{Drawn, ForwardBatch, Logits};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::handle::QueuePlace;
use crate::pace::{Candidate, Pace};
use crate::progress::{Progress, StepPhase};
use crate::runner::panic_message;
use crate::sampler::{SampleError, Sampled, sample_rows};
use crate::scheduler::{PassLimits, Schedule, Scheduler};
use crate::sequence::{Sequence, SequenceId};
use crate::thread::Submission;
use crate::{
    EngineConfig, EngineStats, FinishReason, GeneratedToken, GenerationEvent, ModelRunner, RunnerSpec,
    Speculation, batch, draws,
};

/// A pass that takes less is over before another thread has woken up to compute anything beside it.
const WORTH_WAKING_FOR: Duration = Duration::from_millis(1);

/// Continuous batching over one model. Started with [`Engine::start`], it lives in its own thread and is
/// reached through an [`crate::EngineHandle`].
pub struct Engine {
    runner: Box<dyn ModelRunner>,
    config: EngineConfig,
    spec: RunnerSpec,
    scheduler: Scheduler,
    pace: Pace,
    /// Of the last pass; each pass writes over them.
    logits: Logits,
    outputs: HashMap<SequenceId, Output>,
    /// Events of this step. They go out after the figures, so that nobody sees figures older than an event.
    outbox: Vec<(UnboundedSender<GenerationEvent>, GenerationEvent)>,
    /// The `num_*_total` fields; the others are read off the scheduler.
    totals: EngineStats,
    stats: watch::Sender<EngineStats>,
    progress: Progress,
}

/// The engine's end of one request.
struct Output {
    events: UnboundedSender<GenerationEvent>,
    /// Held until the request is admitted.
    place: Option<QueuePlace>,
}

/// What a pass brought for one sequence.
struct Outcome {
    id: SequenceId,
    tokens: Vec<GeneratedToken>,
    finish_reason: Option<FinishReason>,
}

impl Engine {
    pub(crate) fn new(
        runner: Box<dyn ModelRunner>,
        config: &EngineConfig,
        stats: watch::Sender<EngineStats>,
        progress: Progress,
    ) -> Self {
        let spec = runner.spec();
        Self {
            runner,
            config: *config,
            spec,
            scheduler: Scheduler::new(config, spec),
            pace: Pace::default(),
            logits: Logits::default(),
            outputs: HashMap::new(),
            outbox: Vec::new(),
            totals: EngineStats::default(),
            stats,
            progress,
        }
    }

    /// One forward pass: schedule, run, sample, publish.
    pub(crate) fn step(&mut self) {
        let started = Instant::now();
        self.progress.begin(self.totals.num_steps_total + 1);
        let schedule = self.scheduler.schedule(self.pass_limits());
        self.note_schedule(&schedule);
        let mut batch = batch::build(self.scheduler.running().iter(), self.spec.block_size);
        if self.runner.draws() {
            batch::draw_where_possible(&mut batch, self.scheduler.running_mut().iter_mut());
        }
        self.progress.run(batch.num_seqs(), batch.num_tokens());
        match self.run(&batch).and_then(|()| self.draw(&batch)) {
            Ok(drawn) => {
                self.progress.phase(StepPhase::Sample);
                self.scheduler.commit();
                let outcomes = self.sample(drawn);
                self.pace.note(schedule.num_tokens, started.elapsed());
                outcomes.into_iter().for_each(|outcome| self.note_outcome(outcome));
            }
            Err(message) => self.fail_scheduled(&message),
        }
        self.progress.phase(StepPhase::Publish);
        self.publish();
        self.progress.end();
    }

    /// Starts over after a panic outside the model: fails every request and forgets every block, since nobody knows
    /// what the panic left half done. The model keeps its weights and its KV cache, whose content counts no more.
    pub(crate) fn rebuild(&mut self, panic: &str) {
        tracing::error!(panic, "the engine panicked and is rebuilt");
        let broken = std::mem::replace(&mut self.scheduler, Scheduler::new(&self.config, self.spec));
        // Whatever panicked may be in there, and may do so again when it is dropped.
        std::mem::forget(broken);
        self.totals.num_rebuilds_total += 1;
        self.fail_all(&format!("the engine failed and was rebuilt: {panic}"));
        self.progress.end();
    }

    /// Takes a request.
    pub(crate) fn submit(&mut self, submission: Submission) {
        let Submission { sequence, events, place } = submission;
        self.outputs.insert(sequence.id(), Output { events, place: Some(place) });
        self.scheduler.add(sequence);
    }

    /// Ends a request whose caller went away.
    pub(crate) fn abort(&mut self, id: SequenceId) {
        if self.scheduler.remove(id).is_some() {
            self.outputs.remove(&id);
            self.totals.num_aborted_total += 1;
            self.publish();
        }
    }

    /// Ends every request.
    pub(crate) fn fail_all(&mut self, message: &str) {
        let ids: Vec<SequenceId> = self.outputs.keys().copied().collect();
        ids.into_iter().for_each(|id| self.finish(id, FinishReason::Failed(message.to_owned())));
        self.publish();
    }

    /// Whether there is nothing to compute.
    pub(crate) fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// What the next pass may hold, so that it ends in time and drafts are worth their cost.
    fn pass_limits(&self) -> PassLimits {
        let EngineConfig { max_num_batched_tokens: max, num_speculative_tokens, .. } = self.config;
        let num_decoding = self.scheduler.num_decoding();
        let num_prefill_tokens = match num_decoding {
            0 => max,
            _ => self.pace.prefill_tokens_within(self.config.max_prefill, num_decoding, max),
        };
        let draft_len = match self.config.speculation {
            Speculation::Always => num_speculative_tokens,
            Speculation::WhenItPays => {
                let running = self.scheduler.running().iter();
                let candidates: Vec<_> = running
                    .map(|seq| Candidate {
                        draft_len: seq.draft().len(),
                        expected_right: |len| seq.expected_right(len),
                    })
                    .collect();
                self.pace.draft_len_that_pays(&candidates, num_speculative_tokens)
            }
        };
        PassLimits { num_prefill_tokens, draft_len }
    }

    /// Runs the model, and beside it whatever constraints can compute before they know the logits. A panic in the model
    /// is an error like any other.
    fn run(&mut self, batch: &ForwardBatch) -> Result<(), String> {
        let is_slow = self.pace.is_slow(batch.num_tokens(), WORTH_WAKING_FOR);
        let Self { runner, scheduler, logits, .. } = self;
        let waiting = scheduler.running_mut().iter_mut().filter(|seq| is_slow && seq.wants_to_prepare());
        let ran = rayon::in_place_scope(|scope| {
            waiting.for_each(|seq| scope.spawn(move |_| seq.sampler_mut().prepare()));
            catch_unwind(AssertUnwindSafe(|| runner.forward(batch, logits)))
        });
        ran.map_err(|panic| format!("the model panicked: {}", panic_message(&*panic)))?
            .map_err(|error| model_failed(&error.to_string()))?;
        let expected = (batch.logits_indices.len(), self.spec.vocab_size);
        let found = (self.logits.rows(), self.logits.vocab_size());
        if expected.0 > 0 && expected != found {
            return Err(format!("the model gave logits of shape {found:?}, expected {expected:?}"));
        }
        Ok(())
    }

    /// Draws the next tokens of the sequences that have theirs drawn where the logits are, in the order of the batch.
    fn draw(&mut self, batch: &ForwardBatch) -> Result<Vec<Result<Drawn, SampleError>>, String> {
        if batch.draw_rows.is_empty() {
            return Ok(Vec::new());
        }
        let Self { runner, scheduler, spec, .. } = self;
        let seqs = scheduler.running_mut().iter_mut();
        let seqs = seqs.filter(|seq| seq.is_drawn && seq.samples_after_this_pass()).collect();
        draws::draw(&mut **runner, seqs, spec.vocab_size).map_err(|error| model_failed(&error.to_string()))
    }

    /// Samples for the sequences that have all their tokens computed, in the order of the batch.
    fn sample(&mut self, drawn: Vec<Result<Drawn, SampleError>>) -> Vec<Outcome> {
        let whole = |seq: &&mut Sequence| seq.num_remaining_tokens() == 0;
        let mut seqs: Vec<_> = self.scheduler.running_mut().iter_mut().filter(whole).collect();
        let sampled = sample_rows(seqs.iter_mut().map(|seq| &mut **seq).collect(), &mut self.logits, drawn);
        let outcome = |(seq, sampled): (&mut Sequence, Sampled)| {
            let failed = sampled.error.map(|error| FinishReason::Failed(error.to_string()));
            Outcome { id: seq.id(), tokens: sampled.tokens, finish_reason: failed.or(seq.finish_reason()) }
        };
        let outcomes = seqs.into_iter().zip(sampled).map(outcome).collect();
        let (num_drafts, num_accepted) = self.scheduler.commit_drafts();
        self.totals.num_draft_tokens_total += num_drafts as u64;
        self.totals.num_accepted_tokens_total += num_accepted as u64;
        outcomes
    }

    fn note_schedule(&mut self, schedule: &Schedule) {
        debug_assert!(schedule.num_tokens > 0, "the first running sequence always progresses");
        self.totals.num_steps_total += 1;
        self.totals.num_computed_tokens_total += schedule.num_tokens as u64;
        for seq in self.scheduler.running().iter().filter(|seq| schedule.admitted.contains(&seq.id())) {
            let Some(output) = self.outputs.get_mut(&seq.id()) else { continue };
            // A sequence that resumes after a preemption has no place in the queue to give back.
            if output.place.take().is_some() {
                let (num_prompt_tokens, num_cached_tokens) = (seq.num_prompt_tokens(), seq.num_cached_tokens);
                self.totals.num_prompt_tokens_total += num_prompt_tokens as u64;
                self.totals.num_prefix_hit_tokens_total += num_cached_tokens as u64;
                let event = GenerationEvent::Started { num_prompt_tokens, num_cached_tokens };
                self.outbox.push((output.events.clone(), event));
            }
        }
    }

    fn note_outcome(&mut self, outcome: Outcome) {
        if let Some(output) = self.outputs.get(&outcome.id) {
            self.totals.num_generation_tokens_total += outcome.tokens.len() as u64;
            let events = outcome.tokens.into_iter().map(GenerationEvent::Token);
            self.outbox.extend(events.map(|event| (output.events.clone(), event)));
        }
        if let Some(reason) = outcome.finish_reason {
            self.finish(outcome.id, reason);
        }
    }

    /// Fails the sequences of a pass that went wrong: what it wrote into their blocks is not known.
    fn fail_scheduled(&mut self, message: &str) {
        tracing::error!(message, "a forward pass failed");
        let scheduled = |seq: &&Sequence| seq.num_scheduled_tokens > 0;
        let running = self.scheduler.running().iter();
        let ids: Vec<SequenceId> = running.filter(scheduled).map(Sequence::id).collect();
        ids.into_iter().for_each(|id| self.finish(id, FinishReason::Failed(message.to_owned())));
    }

    fn finish(&mut self, id: SequenceId, reason: FinishReason) {
        self.scheduler.remove(id);
        match reason {
            FinishReason::Failed(_) => self.totals.num_failed_total += 1,
            FinishReason::Stop | FinishReason::Length => self.totals.num_finished_total += 1,
        }
        if let Some(output) = self.outputs.remove(&id) {
            self.outbox.push((output.events, GenerationEvent::Finished(reason)));
        }
    }

    /// Publishes the figures, then the events.
    fn publish(&mut self) {
        let stats = self.stats();
        debug_assert!(stats.blocks_add_up(), "{stats:?}");
        debug_assert!(!self.is_idle() || stats.num_blocks_used == 0, "{stats:?}");
        self.stats.send_replace(stats);
        for (events, event) in self.outbox.drain(..) {
            // A caller that went away has sent its abort.
            let _ = events.send(event);
        }
    }

    #[cfg(test)]
    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    fn stats(&self) -> EngineStats {
        let pool = self.scheduler.blocks().pool();
        EngineStats {
            num_running: self.scheduler.running().len(),
            num_waiting: self.scheduler.num_waiting(),
            num_blocks_total: pool.num_total(),
            num_blocks_free: pool.num_free(),
            num_blocks_used: pool.num_used(),
            num_blocks_cached: pool.num_cached(),
            num_preemptions_total: self.scheduler.num_preemptions(),
            ..self.totals
        }
    }
}

/// What callers are told of a failed pass: the first line. The others, a backtrace if the environment asks for one, are for
/// the log.
fn model_failed(error: &str) -> String {
    let (first, others) = error.split_once('\n').unwrap_or((error, ""));
    if !others.is_empty() {
        tracing::error!("a forward pass failed: {error}");
    }
    format!("the model failed: {first}")
}
