//! What a caller asks for.

use std::fmt;

use crate::{RunnerSpec, SamplingParams, SubmitError, TokenConstraint};

/// One generation, in token ids.
pub struct GenerationRequest {
    /// Tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// How the next token is chosen.
    pub sampling: SamplingParams,
    /// Most tokens to generate, at least 1. The engine's `max_model_len` ends a generation as well.
    pub max_tokens: usize,
    /// Tokens that end the generation; the one that did is delivered.
    pub stop_token_ids: Vec<u32>,
    /// Lower runs first; requests of equal priority share fairly by tenant, each tenant's in order of arrival.
    pub priority: i32,
    /// Whose request it is.
    pub tenant: u32,
    /// Requests find each other's cached prefixes only when their salts are equal.
    pub cache_salt: Option<String>,
    /// Masks tokens, step by step.
    pub constraint: Option<Box<dyn TokenConstraint>>,
}

impl GenerationRequest {
    /// A request with default sampling, no stop token, priority 0, tenant 0, no salt and no constraint.
    pub fn new(prompt: Vec<u32>, max_tokens: usize) -> Self {
        Self {
            prompt,
            sampling: SamplingParams::default(),
            max_tokens,
            stop_token_ids: Vec::new(),
            priority: 0,
            tenant: 0,
            cache_salt: None,
            constraint: None,
        }
    }

    /// Refuses what could never run.
    pub(crate) fn validate(&self, spec: &RunnerSpec, max_model_len: usize) -> Result<(), SubmitError> {
        if self.prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if self.prompt.len() >= max_model_len {
            return Err(SubmitError::PromptTooLong { len: self.prompt.len(), max: max_model_len });
        }
        if self.max_tokens == 0 {
            return Err(SubmitError::InvalidParameter {
                param: "max_tokens",
                value: "0".to_owned(),
                expected: "at least 1",
            });
        }
        check_ids("prompt", self.prompt.iter().copied(), spec.vocab_size)?;
        let biased = self.sampling.logit_bias.iter().map(|&(id, _)| id);
        check_ids("logit_bias", biased, spec.vocab_size)?;
        self.sampling.validate()
    }
}

fn check_ids(
    param: &'static str,
    mut ids: impl Iterator<Item = u32>,
    vocab_size: usize,
) -> Result<(), SubmitError> {
    match ids.find(|&id| id as usize >= vocab_size) {
        Some(id) => Err(SubmitError::InvalidToken { param, id, vocab_size }),
        None => Ok(()),
    }
}

impl fmt::Debug for GenerationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationRequest")
            .field("prompt_len", &self.prompt.len())
            .field("sampling", &self.sampling)
            .field("max_tokens", &self.max_tokens)
            .field("stop_token_ids", &self.stop_token_ids)
            .field("priority", &self.priority)
            .field("tenant", &self.tenant)
            .field("constrained", &self.constraint.is_some())
            .finish_non_exhaustive()
    }
}
