//! The forward pass, in the order and with the names of the reference implementations.

mod attention;
mod layer;
mod mlp;
mod norm;
mod options;
mod pass;
mod peers;
mod rank;
mod residual;
mod rotary;
mod shard;

use std::iter;
use std::path::Path;
use std::sync::Arc;

use ossia_kernels::{Backend, Communicator, Drawn};

pub use self::options::{DenseWeights, ModelOptions};
use self::pass::AttentionBatches;
pub(crate) use self::pass::Passes;
use self::peers::{Loading, Peers};
use self::rank::Rank;
use self::shard::Shard;
use crate::kv_cache::KvCache;
use crate::weights::{Checkpoint, DummyWeights, LoadProgress, WeightSource};
use crate::{ForwardBatch, GptOssConfig, Logits, ModelError, TokenDraw};

/// A gpt-oss model, ready to run. Weights of a checkpoint stay in its mapped files unless the options say otherwise.
pub struct GptOss {
    /// What is computed by whoever calls.
    first: Rank,
    /// The ranks that compute the rest, if it is cut.
    peers: Peers,
    /// Bytes of the weights of all ranks.
    weight_bytes: u64,
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
        let source = Checkpoint::open(dir, options.weight_access)?;
        Self::build(&config, Arc::new(source), options, progress)
    }

    /// Random weights of any shape, made in memory: the same as [`crate::write_checkpoint`] writes.
    ///
    /// # Errors
    /// [`ModelError::Config`] if MXFP4 cannot hold the shape, [`ModelError::Io`] if memory is refused.
    pub fn dummy(config: GptOssConfig, seed: u64, options: &ModelOptions) -> Result<Self, ModelError> {
        let source = DummyWeights::new(&config, seed)?;
        Self::build(&config, Arc::new(source), options, &mut |_| {})
    }

    fn build(
        config: &GptOssConfig,
        source: Arc<dyn WeightSource>,
        options: &ModelOptions,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        Shard::check(config, options.num_ranks())?;
        let backends: Vec<&Backend> = iter::once(&options.backend).chain(&options.peers).collect();
        let mut communicators = Communicator::connect(&backends)?;
        let others = communicators.split_off(1);
        let peers = Loading::start(config, &source, options, others.into_iter())?;
        let communicator = communicators.pop().unwrap_or(Communicator::alone());
        let first = Rank::load(config, &*source, options, communicator, progress)?;
        let (peers, peers_bytes) = peers.finish()?;
        Ok(Self { weight_bytes: first.weight_bytes + peers_bytes, first, peers })
    }

    /// The architecture.
    pub fn config(&self) -> &GptOssConfig {
        &self.first.config
    }

    /// Whether it takes [`ForwardBatch::draw_rows`].
    pub fn draws(&self) -> bool {
        self.first.options.backend.draws(self.first.config.vocab_size)
    }

    /// Parts into which it is cut.
    pub fn num_ranks(&self) -> usize {
        self.first.options.num_ranks()
    }

    /// Where it runs, or its first rank does.
    pub fn backend(&self) -> &Backend {
        &self.first.options.backend
    }

    /// Device and form of the ops of each rank in words, for people.
    pub fn runs_on(&self) -> String {
        let options = &self.first.options;
        let names = iter::once(&options.backend).chain(&options.peers).map(Backend::name);
        names.collect::<Vec<_>>().join(" and ")
    }

    /// How the matrices of attention and the lm_head are kept.
    pub fn dense_weights(&self) -> DenseWeights {
        self.first.options.dense_weights
    }

    /// Bytes of the weights of all ranks, as stored.
    pub fn weight_bytes(&self) -> usize {
        self.weight_bytes as usize
    }

    /// Bytes that one block of a KV cache takes over all layers.
    pub fn kv_bytes_per_block(&self, block_size: usize) -> usize {
        self.first.config.kv_bytes_per_block(self.first.options.cache_type(), block_size)
    }

    /// Allocates a KV cache of `num_blocks` blocks of `block_size` tokens.
    ///
    /// # Errors
    /// [`ModelError::Candle`] if the device refuses the memory.
    pub fn allocate_kv_cache(&self, num_blocks: usize, block_size: usize) -> Result<KvCache, ModelError> {
        KvCache::new(self.config(), &self.first.options, num_blocks, block_size)
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
    /// over what `logits` held, and keeps the logits of `batch.draw_rows` for [`Self::draw`]. A row's bits depend only on its sequence's tokens.
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
        let config = self.config();
        batch.validate(config.vocab_size, config.max_position_embeddings)?;
        kv.validate(batch, self.first.options.num_ranks())?;
        logits.reshape(batch.logits_indices.len(), config.vocab_size);
        if batch.num_tokens() == 0 {
            return Ok(());
        }
        let caches = kv.peers.clone();
        let first = || self.first.pass(batch, kv, logits);
        self.peers.run_beside(&self.first.communicator, batch, &caches, first)
    }

    /// Draws tokens where the logits of the last pass over `kv` are, one for each of `draws`, at most once from each row: logits of
    /// tokens that may not be drawn are overwritten.
    ///
    /// # Errors
    /// [`ModelError::Batch`] if a draw is from a row that the pass did not have in its `draw_rows`.
    pub fn draw(&self, draws: &[TokenDraw], kv: &mut KvCache) -> Result<Vec<Drawn>, ModelError> {
        self.first.draw(draws, &mut kv.passes)
    }
}
