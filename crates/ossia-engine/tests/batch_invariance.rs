//! A request's tokens, and the bits of their log-probabilities, do not depend on who shares its batch, on
//! chunking, on preemption or on a prefix hit.

#![allow(clippy::unwrap_used)]

use ossia_engine::{
    Engine, EngineConfig, EngineHandle, FinishReason, Generation, GenerationEvent, GenerationRequest,
    GptOssRunner, SamplingParams,
};
use ossia_model::{Backend, ComputeType, GptOss, GptOssConfig, ModelOptions};

const NUM_REQUESTS: usize = 16;
const MAX_TOKENS: usize = 24;

/// Tokens and the bits of their log-probabilities.
type Reply = Vec<(u32, u32)>;

/// gpt-oss in miniature: both kinds of layers, a window shorter than the prompts.
const CONFIG: &str = r#"{
    "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"],
    "vocab_size": 320, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "num_local_experts": 8, "num_experts_per_tok": 4, "experts_per_token": 4,
    "sliding_window": 20, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "swiglu_limit": 7.0,
    "attention_bias": true, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02,
    "initial_context_length": 4096, "tie_word_embeddings": false, "rope_theta": 150000,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
        "truncate": false, "original_max_position_embeddings": 4096},
    "eos_token_id": 2, "pad_token_id": 1
}"#;

struct Setup {
    compute: ComputeType,
    num_blocks: usize,
    config: EngineConfig,
}

impl Setup {
    fn start(&self) -> (EngineHandle, ossia_engine::EngineThread) {
        let options = ModelOptions { compute: self.compute, backend: Backend::cpu(), cpu_moe: 0 };
        let config = GptOssConfig::from_json(CONFIG).unwrap();
        let model = GptOss::dummy(config, 5, &options).unwrap();
        let runner = GptOssRunner::new(model, self.num_blocks, 8).unwrap();
        Engine::start(Box::new(runner), self.config).unwrap()
    }

    /// The replies to all requests, submitted together.
    fn run_together(&self) -> (Vec<Reply>, EngineHandle) {
        let (engine, _thread) = self.start();
        (together(&engine), engine)
    }
}

fn setup(compute: ComputeType) -> Setup {
    let config = EngineConfig { enable_prefix_caching: false, ..EngineConfig::default() };
    Setup { compute, num_blocks: 1000, config }
}

/// Prompts from 3 to 93 tokens that share their starts in threes; greedy and seeded by turns.
fn request(idx: usize) -> GenerationRequest {
    let family = (idx % 3) as u32;
    let prompt = (0..3 + 6 * idx as u32).map(|pos| (pos * 37 + family * 11 + pos / 7) % 320).collect();
    let temperature = if idx.is_multiple_of(2) { 0.0 } else { 1.0 };
    let mut request = GenerationRequest::new(prompt, MAX_TOKENS);
    request.sampling = SamplingParams {
        temperature,
        seed: Some(idx as u64),
        logprobs: Some(0),
        top_p: if idx.is_multiple_of(5) { 0.9 } else { 1.0 },
        ..SamplingParams::default()
    };
    request
}

fn together(engine: &EngineHandle) -> Vec<Reply> {
    let submit = |idx| engine.submit(request(idx)).unwrap();
    let generations: Vec<Generation> = (0..NUM_REQUESTS).map(submit).collect();
    generations.into_iter().map(reply).collect()
}

fn reply(mut generation: Generation) -> Reply {
    let mut reply = Reply::new();
    while let Some(event) = generation.blocking_next() {
        match event {
            GenerationEvent::Started { .. } => {}
            GenerationEvent::Token(token) => {
                reply.push((token.id, token.logprobs.unwrap().logprob.to_bits()));
            }
            GenerationEvent::Finished(reason) => assert_eq!(reason, FinishReason::Length),
        }
    }
    reply
}

/// Each request in an engine that has nothing else to do.
fn alone(compute: ComputeType) -> Vec<Reply> {
    let (engine, _thread) = setup(compute).start();
    let replies: Vec<Reply> =
        (0..NUM_REQUESTS).map(|idx| reply(engine.submit(request(idx)).unwrap())).collect();
    assert!(replies.iter().all(|reply| reply.len() == MAX_TOKENS));
    // Not everybody says the same, or the comparison would be worth nothing.
    assert!(replies.iter().skip(1).all(|reply| *reply != replies[0]));
    replies
}

fn check(compute: ComputeType) {
    let expected = alone(compute);

    let (batched, engine) = setup(compute).run_together();
    assert_eq!(batched, expected, "in a batch of {NUM_REQUESTS}");
    assert!(engine.stats().num_steps_total < 2 * MAX_TOKENS as u64, "they did share their batches");

    for max_num_batched_tokens in [1, 7, 64] {
        let mut setup = setup(compute);
        setup.config.max_num_batched_tokens = max_num_batched_tokens;
        assert_eq!(setup.run_together().0, expected, "chunks of {max_num_batched_tokens} tokens");
    }

    let mut tiny_pool = setup(compute);
    tiny_pool.num_blocks = 40;
    let (preempted, engine) = tiny_pool.run_together();
    assert_eq!(preempted, expected, "after preemptions");
    assert!(engine.stats().num_preemptions_total > 0, "there were preemptions");

    let mut caching = setup(compute);
    caching.config.enable_prefix_caching = true;
    let (engine, _thread) = caching.start();
    for round in 0..2 {
        assert_eq!(together(&engine), expected, "with prefix caching, round {round}");
    }
    assert!(engine.stats().num_prefix_hit_tokens_total > 100, "there were prefix hits");
}

#[test]
fn f32_replies_are_the_same_bits_however_they_are_scheduled() {
    check(ComputeType::F32);
}

#[test]
fn bf16_replies_are_the_same_bits_however_they_are_scheduled() {
    check(ComputeType::Bf16);
}
