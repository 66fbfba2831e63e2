//! gpt-oss on candle: configuration, weights and the forward pass over a paged KV cache.
//!
//! The crate knows no request and no sequence, only a [`ForwardBatch`]: what to compute, and which
//! blocks of the KV cache hold what came before.

mod batch;
mod config;
mod error;
mod kv_cache;
mod logits;
mod model;
mod weights;

pub use batch::{ForwardBatch, KvMetadata, TokenDraw};
pub use config::{GptOssConfig, LayerType, YarnConfig};
pub use error::ModelError;
pub use kv_cache::KvCache;
pub use logits::Logits;
pub use model::{DenseWeights, GptOss, ModelOptions};
pub use ossia_kernels::{Backend, BlockTable, CacheType, ComputeType, Draw, Drawn, Filters, Uniforms};
pub use weights::{DamagedTensor, LoadProgress, WeightAccess, WeightSizes, find_damage, write_checkpoint};
