//! The arithmetic of gpt-oss: one op per file, CPU, CUDA and Metal side by side.

mod compute_type;
mod cpu;
mod error;
mod linear;
mod matmul;
mod moe;
mod mxfp4;
mod weight;

pub use compute_type::ComputeType;
pub use cpu::{Isa, num_threads, set_num_threads};
pub use error::{KernelError, Result};
pub use linear::Linear;
pub use moe::{MoeExperts, MoeWeights, SWIGLU_ALPHA};
pub use weight::{ExpertWeights, Matrix, WeightBytes};
