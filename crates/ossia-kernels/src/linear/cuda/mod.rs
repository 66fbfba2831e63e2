//! The linear layer on CUDA: `bf16_mma.cu` or `int8_mma.cu` for up to 64 tokens, cuBLAS for more, `bf16_activations.cu` around both; `exact_gemv.cu` where activations are not to be rounded.

#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use device::{CudaLinear, ExactLinear};

use crate::gpu::Grid;

/// As in the kernel's file.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct MmaLayer {
    weight: u64,
    double_scales: u64,
    bias: u64,
    y: u64,
    rows: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MmaArgs {
    layers: [MmaLayer; MAX_LAYERS],
    x: u64,
    cols: u32,
    num_tokens: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PackBf16Args {
    x: u64,
    packed: u64,
    count: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ExactGemvArgs {
    weight: u64,
    bias: u64,
    x: u64,
    y: u64,
    rows: u32,
    cols: u32,
    num_tokens: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct WidenInt8Args {
    values: u64,
    double_scales: u64,
    wide: u64,
    cols: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct AddBiasArgs {
    products: u64,
    bias: u64,
    y: u64,
    cols: u32,
}

/// Layers of one input in a launch.
const MAX_LAYERS: usize = 3;
/// Most tokens whose activations the kernel takes in f32.
const MAX_F32_TOKENS: usize = 8;
const MMA_THREADS: u32 = 256;
/// Most tokens that each have blocks of their own in `exact_gemv.cu`.
const MAX_EXACT_BLOCKS: usize = 64;

/// The kernel for products whose activations are not rounded.
fn exact_kernel(rows: usize, num_tokens: usize) -> (&'static str, Grid) {
    match num_tokens {
        0..=MAX_EXACT_BLOCKS => ("exact_gemv_f32", Grid::new([rows, num_tokens, 1], 128)),
        _ => ("exact_gemv_many_f32", Grid::new([rows.div_ceil(32), num_tokens.div_ceil(4), 1], 256)),
    }
}
const PACK_THREADS: u32 = 256;
const BIAS_THREADS: u32 = 256;
const WIDEN_THREADS: u32 = 128;

/// Most tokens of a launch.
#[cfg(feature = "cuda")]
const MAX_MMA_TOKENS: usize = 64;

/// What the weights of a product are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WeightType {
    Bf16,
    Int8,
}

/// The kernel for up to 64 tokens, whose activations are f32 or packed to bf16, and the weight rows of its blocks.
fn mma_kernel(weights: WeightType, num_tokens: usize, is_packed: bool) -> (&'static str, usize) {
    let (names, block_rows) = match num_tokens {
        0..=MAX_F32_TOKENS if !is_packed => (["bf16_mma_8", "int8_mma_8"], 16),
        0..=16 => (["bf16_mma_16", "int8_mma_16"], 16),
        17..=32 => (["bf16_mma_32", "int8_mma_32"], 32),
        _ => (["bf16_mma_64", "int8_mma_64"], 32),
    };
    (names[weights as usize], block_rows)
}
