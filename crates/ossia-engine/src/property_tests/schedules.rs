//! Whatever the schedule: every request ends with the tokens that it would have had alone, no block is lost
//! or shared wrongly, the first running sequence progresses in every step.

use std::collections::HashMap;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{mpsc, watch};

use super::fake_runner::FakeRunner;
use super::reference::{Record, Reply, alone};
use super::schedule::{Plan, Schedule};
use crate::engine::Engine;
use crate::handle::QueuePlace;
use crate::progress::Progress;
use crate::sequence::{Sequence, SequenceId};
use crate::thread::Submission;
use crate::{EngineStats, GenerationEvent, SubmitError};

/// More steps than any schedule of `Schedule::random` needs.
const MAX_STEPS: usize = 5000;

/// An engine driven step by step, without its thread.
pub(super) struct Driver {
    pub(super) engine: Engine,
    pub(super) stats: watch::Receiver<EngineStats>,
    schedule: Schedule,
    replies: Vec<UnboundedReceiver<GenerationEvent>>,
    /// What the constraint of each request was fed.
    records: Vec<Record>,
}

impl Driver {
    pub(super) fn new(schedule: Schedule, runner: FakeRunner) -> Self {
        let (sender, stats) = watch::channel(EngineStats::default());
        let engine = Engine::new(Box::new(runner), &schedule.config, sender, Progress::default());
        Self { engine, stats, schedule, replies: Vec::new(), records: Vec::new() }
    }

    /// Submits the request of a plan; its id is its place in the order of submission.
    pub(super) fn submit(&mut self, plan: &Plan) -> Result<SequenceId, SubmitError> {
        let Schedule { spec, config, .. } = &self.schedule;
        let record = Record::default();
        let request = plan.request_with_record(Record::clone(&record));
        request.validate(spec, config.max_model_len)?;
        let id = SequenceId(self.replies.len() as u64);
        let (events, reply) = mpsc::unbounded_channel();
        self.replies.push(reply);
        self.records.push(record);
        let sequence = Sequence::new(id, request, spec.block_size, config.max_model_len)
            .with_drafts(config.num_speculative_tokens);
        self.engine.submit(Submission { sequence, events, place: QueuePlace::default() });
        Ok(id)
    }

    /// One step, and everything that must hold after it.
    pub(super) fn step(&mut self) {
        let scheduler = self.engine.scheduler();
        let progress = |seq: &Sequence| (seq.id(), seq.num_cached_tokens);
        let first = scheduler.running().first().map(progress);
        self.engine.step();
        let scheduler = self.engine.scheduler();
        if let Some((id, before)) = first {
            let after = scheduler.running().iter().find(|seq| seq.id() == id);
            assert!(after.is_none_or(|seq| seq.num_cached_tokens > before), "{id:?} stands still");
        }
        assert!(scheduler.running().is_sorted_by_key(Sequence::rank));
        self.assert_blocks_are_consistent();
    }

    pub(super) fn assert_blocks_are_consistent(&self) {
        let mut holders: HashMap<u32, u32> = HashMap::new();
        for seq in self.engine.scheduler().running() {
            let tables = [&seq.tables.full, &seq.tables.sliding];
            for id in tables.into_iter().flat_map(|table| &table.blocks) {
                *holders.entry(*id).or_default() += 1;
            }
        }
        self.engine.scheduler().blocks().pool().assert_consistent(&holders);
        assert!(self.stats.borrow().blocks_add_up());
    }

    /// Steps until nobody waits or runs.
    pub(super) fn run_until_idle(&mut self) {
        for _ in 0..MAX_STEPS {
            if self.engine.is_idle() {
                return;
            }
            self.step();
        }
        panic!("not finished after {MAX_STEPS} steps");
    }

    /// The events of a request so far.
    pub(super) fn events(&mut self, id: SequenceId) -> Vec<GenerationEvent> {
        let reply = &mut self.replies[id.0 as usize];
        std::iter::from_fn(|| reply.try_recv().ok()).collect()
    }

    /// The reply of a request that has ended, and its cached tokens.
    pub(super) fn reply(&mut self, id: SequenceId) -> (Reply, usize) {
        let mut events = self.events(id).into_iter();
        let Some(GenerationEvent::Started { num_cached_tokens, .. }) = events.next() else {
            panic!("{id:?} was not started first");
        };
        let Some(GenerationEvent::Finished(reason)) = events.next_back() else {
            panic!("{id:?} has no end");
        };
        let token = |event| match event {
            GenerationEvent::Token(token) => token.id,
            other => panic!("{other:?} in the middle"),
        };
        let tokens: Vec<u32> = events.map(token).collect();
        let record = self.records[id.0 as usize].lock().expect("the engine is not running");
        assert!(record.is_empty() || *record == tokens, "the constraint was fed {record:?}, not {tokens:?}");
        ((tokens, reason), num_cached_tokens)
    }
}

/// Runs a schedule and checks everything. Returns the figures of the engine at its end.
fn check(schedule: &Schedule) -> EngineStats {
    let runner = FakeRunner::new(schedule.spec, schedule.config).repetitive(schedule.repetitive);
    let mut driver = Driver::new(schedule.clone(), runner);
    let mut ids = vec![None; schedule.requests.len()];
    let mut left = vec![false; schedule.requests.len()];
    for step in 0..60 {
        for (idx, plan) in schedule.requests.iter().enumerate() {
            if plan.arrives_at_step == step {
                ids[idx] = Some(driver.submit(plan).expect("it fits"));
            }
            if plan.leaves_at_step == Some(step) {
                driver.engine.abort(ids[idx].expect("it arrived"));
                left[idx] = true;
            }
        }
        if !driver.engine.is_idle() {
            driver.step();
        }
    }
    driver.run_until_idle();
    for (idx, plan) in schedule.requests.iter().enumerate().filter(|(idx, _)| !left[*idx]) {
        let (reply, num_cached) = driver.reply(ids[idx].expect("it arrived"));
        assert_eq!(reply, alone(plan.request(), schedule), "request {idx}");
        assert!(num_cached < plan.prompt.len() && num_cached.is_multiple_of(schedule.spec.block_size));
        assert!(num_cached == 0 || schedule.config.enable_prefix_caching);
    }
    let stats = *driver.stats.borrow();
    assert_eq!(stats.num_blocks_used, 0, "blocks are held by nobody");
    stats
}

/// Checks the schedules of `seeds`; a failure names its seed.
fn check_seeds(seeds: std::ops::Range<u64>) {
    let num_schedules = seeds.end - seeds.start;
    let (mut num_preemptions, mut num_hits) = (0, 0);
    let (mut num_drafts, mut num_accepted) = (0, 0);
    for seed in seeds {
        let schedule = Schedule::random(seed);
        let checked = std::panic::catch_unwind(|| check(&schedule));
        let Ok(stats) = checked else { panic!("seed {seed}: {schedule:#?}") };
        num_preemptions += stats.num_preemptions_total;
        num_hits += stats.num_prefix_hit_tokens_total;
        num_drafts += stats.num_draft_tokens_total;
        num_accepted += stats.num_accepted_tokens_total;
    }
    // The schedules are worth nothing if they never get into trouble.
    assert!(num_preemptions > num_schedules / 10, "{num_preemptions} preemptions");
    assert!(num_hits > num_schedules, "{num_hits} tokens found in the cache");
    assert!(num_accepted > num_schedules, "{num_accepted} draft tokens were right");
    assert!(
        num_drafts - num_accepted > num_schedules / 10,
        "{num_accepted} of {num_drafts} draft tokens were right"
    );
}

#[test]
fn random_schedules_0() {
    check_seeds(0..3000);
}

#[test]
fn random_schedules_1() {
    check_seeds(3000..6000);
}

#[test]
fn random_schedules_2() {
    check_seeds(6000..9000);
}

#[test]
fn random_schedules_3() {
    check_seeds(9000..12_000);
}
