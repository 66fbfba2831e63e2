//! How a model is cut over ranks: each has as many heads, as many rows of the lm_head and about as much of the width of every expert.
//! Norms, routers and the embedding are whole on all of them.

use ossia_kernels::Communicator;

use super::ModelOptions;
use crate::weights::{Extent, MXFP4_BLOCK};
use crate::{GptOssConfig, ModelError};

/// What one rank builds: an architecture, how, and which part.
pub(super) struct Shard<'a> {
    pub(super) config: &'a GptOssConfig,
    pub(super) options: &'a ModelOptions,
    pub(super) communicator: Communicator,
}

impl Shard<'_> {
    /// Whether a model may be cut over `size` ranks.
    ///
    /// # Errors
    /// [`ModelError::Config`] naming the field that does not allow it.
    pub(super) fn check(config: &GptOssConfig, size: usize) -> Result<(), ModelError> {
        let refuse =
            |field: &str, message: String| Err(ModelError::Config { field: field.to_owned(), message });
        let kv_heads = config.num_key_value_heads;
        if !kv_heads.is_multiple_of(size) {
            let message = format!("is {kv_heads}, which cannot be shared out evenly to {size} ranks");
            return refuse("num_key_value_heads", message);
        }
        let blocks = config.intermediate_size.div_ceil(MXFP4_BLOCK);
        if blocks < size {
            return refuse(
                "intermediate_size",
                format!("has {blocks} blocks of {MXFP4_BLOCK} for {size} ranks"),
            );
        }
        Ok(())
    }

    /// This rank's rows of the lm_head: as many as the others have, or all where that cannot be.
    pub(super) fn lm_head(&self) -> Extent {
        let vocab_size = self.config.vocab_size;
        match vocab_size.is_multiple_of(self.communicator.size()) {
            true => self.even(vocab_size),
            false => vocab_size.into(),
        }
    }

    /// This rank's part of a number of heads or rows that the number of ranks divides.
    pub(super) fn even(&self, size: usize) -> Extent {
        let len = size / self.communicator.size();
        Extent::new(size, self.communicator.rank() * len..(self.communicator.rank() + 1) * len)
    }

    /// This rank's part of the width of an expert, in whole MXFP4 blocks.
    pub(super) fn intermediate(&self) -> Extent {
        let size = self.config.intermediate_size;
        let blocks = size.div_ceil(MXFP4_BLOCK);
        let start = |rank: usize| (blocks * rank / self.communicator.size() * MXFP4_BLOCK).min(size);
        Extent::new(size, start(self.communicator.rank())..start(self.communicator.rank() + 1))
    }

    /// The bias of a sum over all ranks: one of them adds it.
    pub(super) fn bias_of_sum(&self, bias: Vec<f32>) -> Vec<f32> {
        match self.communicator.rank() {
            0 => bias,
            _ => vec![0.0; bias.len()],
        }
    }
}
