//! gpt-oss on candle: configuration, weights and the forward pass over a paged KV cache.
//!
//! The crate knows no request and no sequence, only a [`ForwardBatch`]: what to compute, and which
//! blocks of the KV cache hold what came before.

mod batch;
mod config;
mod error;
mod logits;

pub use batch::{BlockTable, ForwardBatch, KvMetadata};
pub use config::{GptOssConfig, LayerType, YarnConfig};
pub use error::ModelError;
pub use logits::Logits;
