//! The seam between the engine and a model.

use std::any::Any;
use std::error::Error;

use ossia_model::{Drawn, ForwardBatch, Logits, TokenDraw};

/// A model with a paged KV cache, as the engine sees it.
///
/// The engine writes a block table into every batch and the runner follows it: keys and values go where
/// `slot_mapping` says and are read back through `block_tables`, for the full-attention and the
/// sliding-window layers apart. A block id belongs to one of the two groups at a time.
pub trait ModelRunner: Send {
    /// Sizes of the model and of its KV cache; constant.
    fn spec(&self) -> RunnerSpec;

    /// Whether it takes `draw_rows`: for a runner whose logits are far from here.
    fn draws(&self) -> bool {
        false
    }

    /// Computes one batch and writes a row of logits for each of its `logits_indices` into `logits`, which hold
    /// those of an earlier batch or nothing: give them their shape with [`Logits::reshape`] and write every value. It may
    /// return before what [`Self::draw`] needs is computed.
    ///
    /// # Errors
    /// Any error fails the requests of this batch; the engine goes on with the others.
    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Logits) -> Result<(), RunnerError>;

    /// Draws a token from each of the last batch's `draw_rows` that `draws` name, at most once from each; one answer for each.
    ///
    /// # Errors
    /// As [`Self::forward`].
    fn draw(&mut self, _draws: &[TokenDraw]) -> Result<Vec<Drawn>, RunnerError> {
        Err(RunnerError::new("this runner draws no tokens"))
    }
}

/// Sizes of a model and of its KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerSpec {
    /// Columns of a row of logits.
    pub vocab_size: usize,
    /// Blocks of the pool, shared by the two groups of layers.
    pub num_blocks: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Tokens that a query of a sliding-window layer sees, itself included.
    pub sliding_window: usize,
    /// Positions that the model knows.
    pub max_position_embeddings: usize,
}

impl RunnerSpec {
    /// Most blocks that the sliding-window layers of one decoding sequence hold: the window before a
    /// block boundary and the block after it.
    pub fn max_sliding_blocks(&self) -> usize {
        (self.sliding_window - 1).div_ceil(self.block_size) + 1
    }

    /// Blocks that a sequence of `num_tokens` computed tokens needs to decode, both groups together.
    pub fn blocks_for_len(&self, num_tokens: usize) -> usize {
        let full = num_tokens.div_ceil(self.block_size);
        full + full.min(self.max_sliding_blocks())
    }

    /// Longest sequence that the whole pool can hold, in tokens. The last token is never computed.
    pub fn max_len_that_fits(&self) -> usize {
        let beside_a_window = self.num_blocks.saturating_sub(self.max_sliding_blocks());
        let full = beside_a_window.max(self.num_blocks / 2);
        full * self.block_size + usize::from(full > 0)
    }
}

/// Why a forward pass failed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunnerError(Box<dyn Error + Send + Sync>);

impl RunnerError {
    /// Wraps an error or a message.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into())
    }
}

/// What a caught panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_len_fits_and_one_more_block_does_not() {
        for sliding_window in [1, 2, 15, 16, 17, 128] {
            for num_blocks in 2..60 {
                let spec = RunnerSpec {
                    vocab_size: 1,
                    num_blocks,
                    block_size: 16,
                    sliding_window,
                    max_position_embeddings: 1,
                };
                let computed = spec.max_len_that_fits() - 1;
                assert!(spec.blocks_for_len(computed) <= num_blocks, "{spec:?}");
                assert!(spec.blocks_for_len(computed + 1) > num_blocks, "{spec:?}");
            }
        }
    }
}
