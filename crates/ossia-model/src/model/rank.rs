//! What one rank computes: the whole model, or its part of every layer.

use std::sync::atomic::{AtomicU64, Ordering};

use ossia_kernels::{Communicator, Embedding, Linear, RmsNorm};

use super::layer::DecoderLayer;
use super::norm::load_norm;
use super::rotary::RotaryEmbedding;
use super::{ModelOptions, Shard};
use crate::weights::{Extent, LoadProgress, Loader, WeightSource};
use crate::{ForwardBatch, GptOssConfig, KvCache, Logits, ModelError};

/// The id of the next one.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

pub(super) struct Rank {
    pub(super) config: GptOssConfig,
    pub(super) options: ModelOptions,
    pub(super) communicator: Communicator,
    pub(super) embed_tokens: Embedding,
    pub(super) layers: Vec<DecoderLayer>,
    pub(super) norm: RmsNorm,
    pub(super) lm_head: Linear,
    /// Whether the lm_head has only this rank's rows.
    pub(super) lm_head_is_cut: bool,
    pub(super) rotary_emb: RotaryEmbedding,
    pub(super) weight_bytes: u64,
    /// No other of this process has it.
    pub(super) id: u64,
}

impl Rank {
    /// The part of the rank that `communicator` is of, on the backend of `options`.
    pub(super) fn load(
        config: &GptOssConfig,
        source: &dyn WeightSource,
        options: &ModelOptions,
        communicator: Communicator,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        let shard = Shard { config, options, communicator };
        let mut loader = Loader::new(source, progress);
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let embed_tokens = loader.matrix("model.embed_tokens.weight", vocab_size, hidden_size)?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer_idx| DecoderLayer::load(&shard, layer_idx, &mut loader))
            .collect::<Result<_, _>>()?;
        let norm = load_norm(&shard, "model.norm.weight", &mut loader)?;
        let rows = shard.lm_head();
        let lm_head_is_cut = rows != Extent::from(vocab_size);
        let lm_head = match (config.tie_word_embeddings, lm_head_is_cut) {
            (true, false) => embed_tokens.clone(),
            (true, true) => loader.matrix("model.embed_tokens.weight", rows, hidden_size)?,
            (false, _) => loader.matrix("lm_head.weight", rows, hidden_size)?,
        };
        Ok(Self {
            lm_head: options.backend.linear(options.keep_lm_head(lm_head), None, options.compute)?,
            lm_head_is_cut,
            rotary_emb: RotaryEmbedding::new(config),
            weight_bytes: loader.loaded_bytes(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            options: options.clone(),
            embed_tokens: options.backend.embedding(embed_tokens)?,
            layers,
            norm,
            communicator: shard.communicator,
            config: config.clone(),
        })
    }

    /// Whether it is the rank whose logits are fetched.
    pub(super) fn is_first(&self) -> bool {
        self.communicator.rank() == 0
    }

    /// [`Self::run`] over what was recorded over that cache: whoever owns the cache owns it.
    pub(super) fn pass(
        &self,
        batch: &ForwardBatch,
        kv: &mut KvCache,
        logits: &mut Logits,
    ) -> Result<(), ModelError> {
        let mut passes = std::mem::take(&mut kv.passes);
        let result = self.run(batch, kv, &mut passes, logits);
        kv.passes = passes;
        result
    }
}
