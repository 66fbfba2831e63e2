//! How a model is run: what is kept in which form, and where it is computed.

use std::sync::Arc;

use ossia_kernels::{Backend, CacheType, ComputeType, Matrix};

use crate::WeightAccess;

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
    /// Where the other ranks of a model in tensor parallel run: each computes as much of every layer as `backend` does. Empty
    /// for a model that is not cut.
    pub peers: Vec<Backend>,
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
    /// Parts into which the model is cut.
    pub fn num_ranks(&self) -> usize {
        1 + self.peers.len()
    }

    /// A matrix of attention as it is to be kept.
    pub(super) fn keep_attention(&self, weight: Arc<Matrix>) -> Arc<Matrix> {
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
    pub(super) fn keep_lm_head(&self, weight: Arc<Matrix>) -> Arc<Matrix> {
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
            peers: Vec::new(),
            cpu_moe: 0,
            weight_access: WeightAccess::Mapped,
        }
    }
}
