//! Drafts change no bit: the demo model says the same tokens with the same log-probabilities whether it decodes
//! one token in a pass or verifies what its text suggests.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use ossia_engine::{
    AllowedTokens, Engine, EngineConfig, EngineStats, FinishReason, Generation, GenerationEvent,
    GenerationRequest, GptOssRunner, SamplingParams, Speculation, TokenConstraint,
};
use ossia_model::{ComputeType, GptOss, ModelOptions};

const NUM_REQUESTS: u32 = 8;
const MAX_TOKENS: usize = 60;

/// Tokens and the bits of their log-probabilities.
type Reply = Vec<(u32, u32)>;

fn model(compute: ComputeType) -> GptOss {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    GptOss::load(&dir, &ModelOptions { compute, ..ModelOptions::default() }, &mut |_| {}).unwrap()
}

/// Replies to all requests together, and the engine's figures afterwards.
fn replies(compute: ComputeType, config: EngineConfig) -> (Vec<Reply>, EngineStats) {
    let runner = GptOssRunner::new(model(compute), 500, 16).unwrap();
    let (engine, _thread) = Engine::start(Box::new(runner), config).unwrap();
    let generations: Vec<_> = (0..NUM_REQUESTS).map(|idx| engine.submit(request(idx)).unwrap()).collect();
    let replies = generations.into_iter().map(reply).collect();
    (replies, engine.stats())
}

/// A text that repeats itself; half of the requests are greedy, a third is masked.
fn request(idx: u32) -> GenerationRequest {
    let prompt = (0..70 + idx).map(|pos| 300 + (pos % (9 + idx)) * 17).collect();
    let mut request = GenerationRequest::new(prompt, MAX_TOKENS - idx as usize);
    request.sampling = SamplingParams {
        temperature: if idx.is_multiple_of(2) { 0.0 } else { 0.7 },
        frequency_penalty: if idx == 4 { 0.1 } else { 0.0 },
        seed: Some(u64::from(idx)),
        logprobs: Some(0),
        ..SamplingParams::default()
    };
    if idx.is_multiple_of(3) {
        request.constraint = Some(Box::new(EveryFifth::default()));
    }
    request
}

/// Lets each fifth token be one of ten only.
#[derive(Default)]
struct EveryFifth {
    num_accepted: u32,
    allowed: Vec<u32>,
}

impl TokenConstraint for EveryFifth {
    fn allowed(&mut self) -> AllowedTokens<'_> {
        if !self.num_accepted.is_multiple_of(5) {
            return AllowedTokens::All;
        }
        self.allowed = (0..10).map(|i| 300 + i * 17).collect();
        AllowedTokens::Only(&self.allowed)
    }

    fn accept(&mut self, _token: u32) {
        self.num_accepted += 1;
    }
}

fn reply(mut generation: Generation) -> Reply {
    let mut reply = Reply::new();
    while let Some(event) = generation.blocking_next() {
        match event {
            GenerationEvent::Started { .. } => {}
            GenerationEvent::Token(token) => {
                reply.push((token.id, token.logprobs.unwrap().logprob.to_bits()))
            }
            GenerationEvent::Finished(reason) => assert_eq!(reason, FinishReason::Length),
        }
    }
    reply
}

fn check(compute: ComputeType) {
    let off = EngineConfig { num_speculative_tokens: 0, ..EngineConfig::default() };
    let (expected, stats) = replies(compute, off);
    assert_eq!((stats.num_draft_tokens_total, stats.num_accepted_tokens_total), (0, 0));
    for num_speculative_tokens in [1, 8] {
        let config = EngineConfig { num_speculative_tokens, speculation: Speculation::Always, ..off };
        let (found, stats) = replies(compute, config);
        assert_eq!(found, expected, "drafts of {num_speculative_tokens} tokens");
        let (num_drafts, num_right) = (stats.num_draft_tokens_total, stats.num_accepted_tokens_total);
        assert!(num_right > 15, "{num_right} of {num_drafts} draft tokens were right");
        assert!(num_drafts > num_right, "{num_right} of {num_drafts} draft tokens were right");
    }
}

#[test]
fn f32_replies_are_the_same_bits_with_drafts() {
    check(ComputeType::F32);
}

#[test]
fn bf16_replies_are_the_same_bits_with_drafts() {
    check(ComputeType::Bf16);
}
