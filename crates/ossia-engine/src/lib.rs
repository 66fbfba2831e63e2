//! Continuous batching: sequences, block manager, scheduler, sampler, engine thread.
//!
//! [`Engine::start`] gives the engine a thread of its own and returns an [`EngineHandle`]. A
//! [`GenerationRequest`] goes in through [`EngineHandle::submit`], [`GenerationEvent`]s come out of the
//! [`Generation`]; dropping the `Generation` is the abort. The crate knows token ids only.
//!
//! A request's tokens depend on its prompt, its parameters and its seed, and on nothing else: not on the
//! sequences that share its batch, on chunking, on preemption or on a prefix hit (as long as the
//! [`ModelRunner`] computes each row from that row's context alone).

mod batch;
mod block_hash;
mod block_manager;
mod block_pool;
mod config;
mod constraint;
mod draws;
mod engine;
mod error;
mod generation;
mod gpt_oss_runner;
mod handle;
mod pace;
mod progress;
mod prompt_lookup;
#[cfg(test)]
mod property_tests;
mod request;
mod runner;
mod sampler;
mod sampling_params;
mod scheduler;
mod sequence;
mod stats;
mod thread;
mod waiting;

pub use config::{EngineConfig, Speculation};
pub use constraint::{AllowedTokens, TokenConstraint};
pub use engine::Engine;
pub use error::{EngineError, SubmitError};
pub use generation::{
    FinishReason, GeneratedToken, Generation, GenerationEvent, TokenLogprob, TokenLogprobs,
};
pub use gpt_oss_runner::GptOssRunner;
pub use handle::EngineHandle;
pub use progress::{StepInProgress, StepPhase};
pub use request::GenerationRequest;
pub use runner::{ModelRunner, RunnerError, RunnerSpec};
pub use sampling_params::SamplingParams;
pub use stats::EngineStats;
pub use thread::EngineThread;
