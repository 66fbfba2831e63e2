//! The limits of one engine.

use std::time::Duration;

use crate::{EngineError, RunnerSpec};

/// When drafts are verified. A request's tokens are the same bit for bit whatever this says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speculation {
    /// When it is expected to be faster than decoding token by token, by what passes took and drafts were
    /// right lately.
    WhenItPays,
    /// Whenever there is a draft.
    Always,
}

/// Limits of one engine, fixed at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Most sequences in one forward pass.
    pub max_num_seqs: usize,
    /// Most tokens in one forward pass; longer prompts are computed in chunks.
    pub max_num_batched_tokens: usize,
    /// Most tokens of a sequence, prompt and generation together.
    pub max_model_len: usize,
    /// Most requests that may wait for their first pass; further ones are refused.
    pub max_num_waiting: usize,
    /// Whether blocks of computed tokens are found again by later requests.
    pub enable_prefix_caching: bool,
    /// How long a pass that computes a prompt may hold up the sequences that are decoding; chunks are cut to
    /// it by what passes took so far, down to 16 tokens. Without decoding sequences they are not cut.
    pub max_prefill: Duration,
    /// Most tokens that are drafted from the sequence's own tokens and verified in one pass; 0 for none.
    pub num_speculative_tokens: usize,
    /// When that is done.
    pub speculation: Speculation,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            max_num_seqs: 64,
            max_num_batched_tokens: 2048,
            max_model_len: 131_072,
            max_num_waiting: 1024,
            enable_prefix_caching: true,
            max_prefill: Duration::from_secs(1),
            num_speculative_tokens: 8,
            speculation: Speculation::WhenItPays,
        }
    }
}

impl EngineConfig {
    /// The limits that hold with this runner: `max_model_len` is lowered to what the model's positions
    /// and the block pool allow.
    ///
    /// # Errors
    /// [`EngineError::Config`] when a limit is zero or the pool cannot hold one sequence of two tokens.
    pub(crate) fn for_runner(self, spec: &RunnerSpec) -> Result<Self, EngineError> {
        let positive = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_num_waiting", self.max_num_waiting),
            ("vocab_size", spec.vocab_size),
            ("block_size", spec.block_size),
            ("sliding_window", spec.sliding_window),
        ];
        if let Some((field, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(EngineError::Config(format!("`{field}` must be at least 1")));
        }
        let fits = spec.max_len_that_fits();
        let max_model_len = self.max_model_len.min(fits).min(spec.max_position_embeddings);
        if max_model_len < 2 {
            return Err(EngineError::Config(format!(
                "no sequence of two tokens is possible: max_model_len {}, {} positions, {} blocks of {} tokens",
                self.max_model_len, spec.max_position_embeddings, spec.num_blocks, spec.block_size
            )));
        }
        Ok(Self { max_model_len, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(num_blocks: usize) -> RunnerSpec {
        RunnerSpec {
            vocab_size: 8,
            num_blocks,
            block_size: 16,
            sliding_window: 128,
            max_position_embeddings: 4096,
        }
    }

    #[test]
    fn max_model_len_is_what_the_pool_and_the_positions_allow() {
        let max_model_len = |num_blocks| {
            EngineConfig::default().for_runner(&spec(num_blocks)).map(|config| config.max_model_len)
        };
        // One block for the full layers, one for the sliding layers; the last token is never computed.
        assert_eq!(max_model_len(2).expect("one block each"), 17);
        assert_eq!(max_model_len(18).expect("nine blocks each"), 9 * 16 + 1);
        assert_eq!(max_model_len(19).expect("the window is capped at nine"), 10 * 16 + 1);
        assert_eq!(max_model_len(100_000).expect("all positions"), 4096);
        assert!(max_model_len(1).is_err());
    }

    #[test]
    fn limits_of_zero_are_named() {
        let config = EngineConfig { max_num_seqs: 0, ..EngineConfig::default() };
        let message = config.for_runner(&spec(100)).expect_err("zero").to_string();
        assert!(message.contains("max_num_seqs"), "{message}");
    }
}
