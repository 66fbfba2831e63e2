//! The forward pass, in the order and with the names of the reference implementations.

mod attention;
mod layer;
mod mlp;
mod norm;
mod pass;
mod residual;
mod rotary;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ossia_kernels::{Backend, CacheType, ComputeType, Embedding, Linear, Matrix, RmsNorm};

use self::layer::DecoderLayer;
use self::norm::load_norm;
use self::pass::AttentionBatches;
pub(crate) use self::pass::Passes;
use self::rotary::RotaryEmbedding;
use crate::kv_cache::KvCache;
use crate::weights::{Checkpoint, DummyWeights, LoadProgress, Loader, WeightAccess, WeightSource};
use crate::{ForwardBatch, GptOssConfig, Logits, ModelError};

/// How a model is run.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Precision of activations in matrix products.
    pub compute: ComputeType,
    /// How the KV cache keeps keys and values; `None` for [`CacheType::of`] `compute`.
    pub kv_cache: Option<CacheType>,
    /// How the matrices of attention and the lm_head are kept.
    pub dense_weights: DenseWeights,
    /// Where it runs, and in which form of the ops.
    pub backend: Backend,
    /// Layers, from the first on, whose experts stay in the machine's memory and are computed by the CPU.
    pub cpu_moe: usize,
    /// How the weights of a checkpoint are come by.
    pub weight_access: WeightAccess,
}

/// How the matrices of attention and the lm_head are kept. Experts stay as stored, the router and the embedding too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenseWeights {
    /// In the mapped checkpoint, exactly.
    #[default]
    AsStored,
    /// The lm_head rounded to 8 bits at load: half the bytes of bf16, in memory of its own.
    Int8LmHead,
    /// All of them rounded to 8 bits.
    Int8,
    /// Attention rounded to 10 bits and the lm_head to 8.
    Int10,
}

impl ModelOptions {
    /// A matrix of attention as it is to be kept.
    fn keep_attention(&self, weight: Arc<Matrix>) -> Arc<Matrix> {
        match self.dense_weights {
            DenseWeights::AsStored | DenseWeights::Int8LmHead => weight,
            DenseWeights::Int8 => Arc::new(weight.to_int8()),
            DenseWeights::Int10 => Arc::new(weight.to_int10()),
        }
    }

    /// How the KV cache keeps keys and values.
    pub fn cache_type(&self) -> CacheType {
        self.kv_cache.unwrap_or_else(|| CacheType::of(self.compute))
    }

    /// The lm_head as it is to be kept.
    fn keep_lm_head(&self, weight: Arc<Matrix>) -> Arc<Matrix> {
        match self.dense_weights {
            DenseWeights::AsStored => weight,
            DenseWeights::Int8LmHead | DenseWeights::Int8 | DenseWeights::Int10 => Arc::new(weight.to_int8()),
        }
    }
}

impl Default for ModelOptions {
    fn default() -> Self {
        let backend = Backend::cpu();
        Self {
            compute: ComputeType::Bf16,
            kv_cache: None,
            dense_weights: DenseWeights::AsStored,
            backend,
            cpu_moe: 0,
            weight_access: WeightAccess::Mapped,
        }
    }
}

/// The id of the next model.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// A gpt-oss model, ready to run. Weights of a checkpoint stay in its mapped files unless the options say otherwise.
pub struct GptOss {
    config: GptOssConfig,
    options: ModelOptions,
    embed_tokens: Embedding,
    layers: Vec<DecoderLayer>,
    norm: RmsNorm,
    lm_head: Linear,
    rotary_emb: RotaryEmbedding,
    weight_bytes: u64,
    /// No other model of this process has it.
    id: u64,
}

impl GptOss {
    /// Loads the checkpoint in `dir`: config.json and model.safetensors, or the files of its index.
    ///
    /// # Errors
    /// Names the file and the field or tensor that is missing, damaged or not as the configuration says.
    pub fn load(
        dir: &Path,
        options: &ModelOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        let config = GptOssConfig::from_file(&dir.join("config.json"))?;
        Self::build(config, &Checkpoint::open(dir, options.weight_access)?, options, progress)
    }

    /// Random weights of any shape, made in memory: the same as [`crate::write_checkpoint`] writes.
    ///
    /// # Errors
    /// [`ModelError::Config`] if MXFP4 cannot hold the shape, [`ModelError::Io`] if memory is refused.
    pub fn dummy(config: GptOssConfig, seed: u64, options: &ModelOptions) -> Result<Self, ModelError> {
        let weights = DummyWeights::new(&config, seed)?;
        Self::build(config, &weights, options, &mut |_| {})
    }

    fn build(
        config: GptOssConfig,
        source: &dyn WeightSource,
        options: &ModelOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        let mut loader = Loader::new(source, progress);
        let (vocab_size, hidden_size) = (config.vocab_size, config.hidden_size);
        let embed_tokens = loader.matrix("model.embed_tokens.weight", vocab_size, hidden_size)?;
        let layers = (0..config.num_hidden_layers)
            .map(|layer_idx| DecoderLayer::load(&config, options, layer_idx, &mut loader))
            .collect::<Result<_, _>>()?;
        let norm = load_norm(&config, options, "model.norm.weight", &mut loader)?;
        let lm_head = match config.tie_word_embeddings {
            true => embed_tokens.clone(),
            false => loader.matrix("lm_head.weight", vocab_size, hidden_size)?,
        };
        Ok(Self {
            lm_head: options.backend.linear(options.keep_lm_head(lm_head), None, options.compute)?,
            rotary_emb: RotaryEmbedding::new(&config),
            weight_bytes: loader.loaded_bytes(),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            options: options.clone(),
            config,
            embed_tokens: options.backend.embedding(embed_tokens)?,
            layers,
            norm,
        })
    }

    /// The architecture.
    pub fn config(&self) -> &GptOssConfig {
        &self.config
    }

    /// Whether it takes [`ForwardBatch::draws`].
    pub fn draws(&self) -> bool {
        self.options.backend.draws(self.config.vocab_size)
    }

    /// Where it runs.
    pub fn backend(&self) -> &Backend {
        &self.options.backend
    }

    /// How the matrices of attention and the lm_head are kept.
    pub fn dense_weights(&self) -> DenseWeights {
        self.options.dense_weights
    }

    /// Bytes of the weights, as stored.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes as usize
    }

    /// Bytes that one block of a KV cache takes over all layers.
    pub fn kv_bytes_per_block(&self, block_size: usize) -> usize {
        self.config.kv_bytes_per_block(self.options.cache_type(), block_size)
    }

    /// Allocates a KV cache of `num_blocks` blocks of `block_size` tokens.
    ///
    /// # Errors
    /// [`ModelError::Candle`] if the device refuses the memory.
    pub fn allocate_kv_cache(&self, num_blocks: usize, block_size: usize) -> Result<KvCache, ModelError> {
        KvCache::new(
            &self.config,
            self.options.cache_type(),
            self.options.backend.device(),
            num_blocks,
            block_size,
        )
    }

    /// [`Self::forward_into`] fresh memory.
    ///
    /// # Errors
    /// As [`Self::forward_into`].
    pub fn forward(&self, batch: &ForwardBatch, kv: &mut KvCache) -> Result<Logits, ModelError> {
        let mut logits = Logits::default();
        self.forward_into(batch, kv, &mut logits)?;
        Ok(logits)
    }

    /// Runs one pass: writes the new tokens' keys and values into `kv`, a row of logits for each of `batch.logits_indices`
    /// over what `logits` held, and draws a token for each of `batch.draws`. A row's bits depend only on its sequence's tokens.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if the batch contradicts itself, the model or the cache; the cache's blocks
    /// named in it are then undefined, others untouched.
    pub fn forward_into(
        &self,
        batch: &ForwardBatch,
        kv: &mut KvCache,
        logits: &mut Logits,
    ) -> Result<(), ModelError> {
        ossia_kernels::pin_pass_thread();
        batch.validate(self.config.vocab_size, self.config.max_position_embeddings)?;
        kv.validate(batch)?;
        logits.reshape(batch.logits_indices.len(), self.config.vocab_size);
        if batch.num_tokens() == 0 {
            return Ok(());
        }
        // Whoever owns the cache owns what was recorded over it.
        let mut passes = std::mem::take(&mut kv.passes);
        let result = self.run(batch, kv, &mut passes, logits);
        kv.passes = passes;
        result
    }
}
