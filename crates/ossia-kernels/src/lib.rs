//! The arithmetic of gpt-oss: one op per file, CPU, CUDA and Metal side by side.

mod attention;
mod backend;
mod check;
mod collective;
mod compute_type;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod device_input;
mod draw;
mod embedding;
mod error;
mod fp8;
#[cfg(any(test, feature = "cuda", feature = "metal"))]
mod gpu;
mod int8_heads;
mod kv_cache;
mod linear;
mod map_file;
mod matmul;
#[cfg(feature = "metal")]
mod metal;
mod moe;
mod mxfp4;
mod paged_attention;
mod recordings;
mod rms_norm;
mod rope;
mod weight;

pub use attention::{Attention, AttentionBatch, AttentionSpec, CosSin, LayerCache, Qkv};
pub use backend::Backend;
pub use check::{CheckShapes, OpCheck, check_ops};
pub use collective::Communicator;
pub use compute_type::ComputeType;
pub use cpu::{
    Isa, ask_for_huge_pages, interleave_memory, keep_freed_memory, measure_read_speed, num_threads,
    parse_list, pin_pass_thread, pin_threads, set_num_threads,
};
pub use device_input::{DeviceInput, TokenIds};
pub use draw::{Draw, Drawn, Filters, Uniforms};
pub use embedding::Embedding;
pub use error::{KernelError, Result};
pub use kv_cache::{BlockTable, CacheType, write_kv};
pub use linear::{Linear, forward_all};
pub use map_file::map_file;
pub use moe::{MoeExperts, MoeWeights, SWIGLU_ALPHA};
pub use paged_attention::{AttentionLayer, AttentionMetadata, paged_attention};
pub use recordings::Recordings;
pub use rms_norm::RmsNorm;
pub use weight::{ExpertWeights, Matrix, WeightBytes};
