//! A random schedule: an engine with tiny limits, requests, arrivals, departures.

use rand::prelude::*;
use rand::rngs::StdRng;

use super::reference::{History, Record};
use crate::{EngineConfig, GenerationRequest, RunnerSpec, SamplingParams, Speculation};

pub(super) const VOCAB_SIZE: usize = 32;

/// Everything that happens to one engine.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    pub(super) spec: RunnerSpec,
    pub(super) config: EngineConfig,
    pub(super) requests: Vec<Plan>,
    /// Whether the model looks at the last token only, and so repeats itself: drafts are often right.
    pub(super) repetitive: bool,
}

/// One request and its caller.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) arrives_at_step: usize,
    /// The caller goes away at this step, if it has not been answered before.
    pub(super) leaves_at_step: Option<usize>,
    pub(super) prompt: Vec<u32>,
    pub(super) max_tokens: usize,
    pub(super) priority: i32,
    pub(super) tenant: u32,
    pub(super) cache_salt: Option<String>,
    pub(super) constrained: bool,
    pub(super) sampling: SamplingParams,
}

impl Schedule {
    pub(super) fn random(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let spec = RunnerSpec {
            vocab_size: VOCAB_SIZE,
            num_blocks: rng.random_range(2..48),
            block_size: [1, 2, 3, 4, 8, 16][rng.random_range(0..6)],
            sliding_window: rng.random_range(1..24),
            max_position_embeddings: 80,
        };
        let config = EngineConfig {
            max_num_seqs: rng.random_range(1..9),
            max_num_batched_tokens: rng.random_range(1..48),
            max_model_len: 64,
            max_num_waiting: 100,
            enable_prefix_caching: rng.random_bool(0.85),
            num_speculative_tokens: rng.random_range(0..7),
            speculation: Speculation::Always,
            ..EngineConfig::default()
        };
        let config = config.for_runner(&spec).expect("room for two tokens");
        let stems = [(); 3].map(|()| random_tokens(&mut rng, 64));
        let use_priorities = rng.random_bool(0.3);
        let num_requests = rng.random_range(1..12);
        let requests = (0..num_requests)
            .map(|_| {
                let mut plan = Plan::random(&mut rng, &stems, config.max_model_len);
                plan.priority *= i32::from(use_priorities);
                plan
            })
            .collect();
        Self { spec, config, requests, repetitive: rng.random_bool(0.5) }
    }
}

impl Plan {
    fn random(rng: &mut StdRng, stems: &[Vec<u32>; 3], max_model_len: usize) -> Self {
        let mut prompt = stems[rng.random_range(0..3)].clone();
        prompt.truncate(rng.random_range(0..40));
        let suffix_len = rng.random_range(1..12);
        prompt.extend(random_tokens(rng, suffix_len));
        prompt.truncate(max_model_len - 1);
        let arrives_at_step = rng.random_range(0..30);
        let leaves = rng.random_bool(0.15);
        Self {
            arrives_at_step,
            leaves_at_step: leaves.then(|| arrives_at_step + rng.random_range(0..20)),
            prompt,
            max_tokens: rng.random_range(1..40),
            priority: rng.random_range(-1..2),
            tenant: rng.random_range(0..3),
            cache_salt: rng.random_bool(0.1).then(|| "salt".to_owned()),
            constrained: rng.random_bool(0.3),
            sampling: random_sampling(rng),
        }
    }

    pub(super) fn request(&self) -> GenerationRequest {
        self.request_with_record(Record::default())
    }

    /// The request; what its constraint, if it has one, is fed goes into `record`.
    pub(super) fn request_with_record(&self, record: Record) -> GenerationRequest {
        let mut request = GenerationRequest::new(self.prompt.clone(), self.max_tokens);
        request.sampling = self.sampling.clone();
        request.priority = self.priority;
        request.tenant = self.tenant;
        request.cache_salt = self.cache_salt.clone();
        request.stop_token_ids = vec![0, 1];
        if self.constrained {
            request.constraint = Some(Box::new(History::new(record)));
        }
        request
    }
}

fn random_tokens(rng: &mut StdRng, len: usize) -> Vec<u32> {
    (0..len).map(|_| rng.random_range(0..VOCAB_SIZE as u32)).collect()
}

fn random_sampling(rng: &mut StdRng) -> SamplingParams {
    let greedy = rng.random_bool(0.5);
    SamplingParams {
        temperature: if greedy { 0.0 } else { 1.0 },
        seed: Some(rng.random_range(0..100)),
        frequency_penalty: if rng.random_bool(0.2) { 1.5 } else { 0.0 },
        top_p: if rng.random_bool(0.2) { 0.8 } else { 1.0 },
        min_tokens: rng.random_range(0..4),
        ..SamplingParams::default()
    }
}
