//! Tenants share the engine: one's many requests do not keep another's few waiting, however they are mixed.

use rand::prelude::*;
use rand::rngs::StdRng;

use super::fake_runner::FakeRunner;
use super::schedule::{Plan, Schedule, VOCAB_SIZE};
use super::schedules::Driver;
use crate::sequence::SequenceId;
use crate::{EngineConfig, GenerationEvent, RunnerSpec, SamplingParams};

const MAX_LEN: usize = 64;

fn driver(num_blocks: usize, max_num_seqs: usize, max_num_batched_tokens: usize) -> Driver {
    let spec = RunnerSpec {
        vocab_size: VOCAB_SIZE,
        num_blocks,
        block_size: 4,
        sliding_window: 8,
        max_position_embeddings: 4096,
    };
    let limits = EngineConfig {
        max_num_seqs,
        max_num_batched_tokens,
        max_model_len: MAX_LEN,
        num_speculative_tokens: 0,
        ..EngineConfig::default()
    };
    // Without prefix caching a prompt costs its length.
    let config = EngineConfig { enable_prefix_caching: false, ..limits }.for_runner(&spec).expect("room");
    let schedule = Schedule { spec, config, requests: Vec::new(), repetitive: false };
    Driver::new(schedule, FakeRunner::new(spec, config))
}

fn plan(rng: &mut StdRng, tenant: u32, max_tokens: usize) -> Plan {
    let prompt_len = rng.random_range(1..20);
    Plan {
        arrives_at_step: 0,
        leaves_at_step: None,
        prompt: (0..prompt_len).map(|_| rng.random_range(0..VOCAB_SIZE as u32)).collect(),
        max_tokens,
        priority: 0,
        tenant,
        cache_salt: None,
        constrained: false,
        sampling: SamplingParams { min_tokens: max_tokens, ..SamplingParams::greedy() },
    }
}

/// Steps until a request has its first token; gives the number of steps.
fn steps_to_first_token(driver: &mut Driver, id: SequenceId) -> usize {
    for step in 1..10_000 {
        driver.step();
        if driver.events(id).iter().any(|event| matches!(event, GenerationEvent::Token(_))) {
            return step;
        }
    }
    panic!("{id:?} is never served");
}

#[test]
fn two_hundred_requests_do_not_keep_another_tenants_one_waiting() {
    for seed in 0..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut driver = driver(rng.random_range(48..200), rng.random_range(2..12), rng.random_range(20..64));
        for _ in 0..200 {
            driver.submit(&plan(&mut rng, 1, 40)).expect("it fits");
        }
        (0..rng.random_range(0..100)).for_each(|_| driver.step());
        let id = driver.submit(&plan(&mut rng, 2, 5)).expect("it fits");
        // A step may end in a preemption, after which nobody is admitted; another finishes the prompt.
        let num_steps = steps_to_first_token(&mut driver, id);
        assert!(num_steps <= 6, "seed {seed}: the first token came after {num_steps} steps");
    }
}

/// However many requests each tenant has in the queue, and of whatever lengths, as long as all of them have some the
/// tokens computed for any two differ by no more than what may be in flight.
#[test]
fn tenants_who_always_want_more_get_the_same() {
    for seed in 0..100 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (max_num_seqs, num_tenants) = (rng.random_range(1..9), rng.random_range(2..5));
        let mut driver = driver(rng.random_range(48..200), max_num_seqs, rng.random_range(16..64));
        let mut tenants = Vec::new();
        for tenant in 0..num_tenants {
            let max_tokens = rng.random_range(1..40);
            for _ in 0..rng.random_range(100..400) {
                driver.submit(&plan(&mut rng, tenant, max_tokens)).expect("it fits");
                tenants.push(tenant);
            }
        }
        let mut num_computed = vec![0; num_tenants as usize];
        let mut num_rounds = 0;
        while (0..num_tenants).all(|tenant| driver.engine.scheduler().has_waiting(tenant))
            && num_rounds < 1500
        {
            num_rounds += 1;
            driver.step();
            for (idx, &tenant) in tenants.iter().enumerate() {
                num_computed[tenant as usize] +=
                    driver.events(SequenceId(idx as u64)).iter().map(cost).sum::<usize>();
            }
        }
        let (least, most) = (num_computed.iter().min(), num_computed.iter().max());
        let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
        assert!(num_rounds > 20, "seed {seed}: over after {num_rounds} steps");
        assert!(
            most - least <= 2 * max_num_seqs * MAX_LEN,
            "seed {seed}: {num_computed:?} in {num_rounds} steps"
        );
    }
}

/// Tokens computed for what an event tells.
fn cost(event: &GenerationEvent) -> usize {
    match event {
        GenerationEvent::Started { num_prompt_tokens, .. } => *num_prompt_tokens,
        GenerationEvent::Token(_) => 1,
        GenerationEvent::Finished(_) => 0,
    }
}
