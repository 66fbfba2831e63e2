//! gpt-oss behind the engine's seam.

use ossia_model::{Drawn, ForwardBatch, GptOss, KvCache, Logits, ModelError, TokenDraw};

use crate::{ModelRunner, RunnerError, RunnerSpec};

/// A gpt-oss model and its KV cache.
pub struct GptOssRunner {
    model: GptOss,
    kv: KvCache,
}

impl GptOssRunner {
    /// Takes the memory of `num_blocks` blocks of `block_size` tokens
    /// ([`GptOss::kv_bytes_per_block`] each).
    ///
    /// # Errors
    /// [`ModelError`] if the device refuses the memory.
    pub fn new(model: GptOss, num_blocks: usize, block_size: usize) -> Result<Self, ModelError> {
        let kv = model.allocate_kv_cache(num_blocks, block_size)?;
        Ok(Self { model, kv })
    }
}

impl ModelRunner for GptOssRunner {
    fn spec(&self) -> RunnerSpec {
        let config = self.model.config();
        RunnerSpec {
            vocab_size: config.vocab_size,
            num_blocks: self.kv.num_blocks(),
            block_size: self.kv.block_size(),
            sliding_window: config.sliding_window,
            max_position_embeddings: config.max_position_embeddings,
        }
    }

    fn draws(&self) -> bool {
        self.model.draws()
    }

    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Logits) -> Result<(), RunnerError> {
        self.model.forward_into(batch, &mut self.kv, logits).map_err(RunnerError::new)
    }

    fn draw(&mut self, draws: &[TokenDraw]) -> Result<Vec<Drawn>, RunnerError> {
        self.model.draw(draws, &mut self.kv).map_err(RunnerError::new)
    }
}
