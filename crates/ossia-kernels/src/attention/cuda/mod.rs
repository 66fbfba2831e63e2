//! Attention on CUDA: `rope_and_cache.cu`, then `decode_attention.cu` or `paged_attention.cu` for sequences of few new tokens
//! and `tiled_attention.cu` for those of many.

#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use device::{CudaBatch, fits};

use candle_core::DType;

use super::AttentionSpec;
use super::words::Words;

/// As in the kernels' files.
#[repr(C)]
#[derive(Clone, Copy)]
struct RopeAndCacheArgs {
    q: u64,
    k: u64,
    v: u64,
    cos: u64,
    sin: u64,
    slots: u64,
    q_out: u64,
    k_cache: u64,
    v_cache: u64,
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PagedAttentionArgs {
    q: u64,
    tokens: u64,
    k_cache: u64,
    v_cache: u64,
    token_seqs: u64,
    positions: u64,
    table_starts: u64,
    first_blocks: u64,
    blocks: u64,
    sinks: u64,
    part_out: u64,
    part_max: u64,
    part_sum: u64,
    out: u64,
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    block_size: u32,
    max_splits: u32,
    window: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct TiledAttentionArgs {
    q: u64,
    k_cache: u64,
    v_cache: u64,
    seqs: u64,
    seq_starts: u64,
    context_lens: u64,
    table_starts: u64,
    first_blocks: u64,
    blocks: u64,
    sinks: u64,
    out: u64,
    count: u32,
    num_heads: u32,
    num_kv_heads: u32,
    block_size: u32,
    window: u32,
    scale: f32,
}

/// Keys of a part: `SPLIT_LEN` of the kernel.
const SPLIT_LEN: usize = 256;
const ROPE_THREADS: u32 = 256;
/// Blocks that share a token's heads.
const ROPE_PARTS: usize = 8;
const SPLIT_THREADS: u32 = 128;
const JOIN_THREADS: u32 = 64;
const TILED_THREADS: u32 = 128;
/// Rows of a tile, a row being a head of a query.
const TILE_ROWS: usize = 64;
/// Most query heads of a key-value head that `decode_attention.cu` takes.
const MAX_DECODE_HEADS: usize = 8;
/// The only width of a head that the kernels on the tensor cores take.
const TILED_HEAD_DIM: usize = 64;

/// The kernels for caches of one type.
#[derive(Clone, Copy, Debug)]
struct CacheKernels {
    rope_and_cache: &'static str,
    decode: &'static str,
    split: &'static str,
    tiled: &'static str,
}

impl CacheKernels {
    const BF16: Self = Self {
        rope_and_cache: "rope_and_cache_bf16",
        decode: "decode_attention_bf16",
        split: "paged_attention_split_bf16",
        tiled: "tiled_attention_bf16",
    };
    const FP8: Self = Self {
        rope_and_cache: "rope_and_cache_fp8",
        decode: "decode_attention_fp8",
        split: "paged_attention_split_fp8",
        tiled: "tiled_attention_fp8",
    };

    /// Those for caches of `dtype`, if there are such.
    fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::BF16 => Some(Self::BF16),
            DType::F8E4M3 => Some(Self::FP8),
            _ => None,
        }
    }

    /// The one for queries that go one by one, by the shape of their heads: on the tensor cores where it fits.
    fn few(self, spec: &AttentionSpec, block_size: usize) -> &'static str {
        let group = spec.num_attention_heads / spec.num_key_value_heads;
        let fits =
            spec.head_dim == TILED_HEAD_DIM && group <= MAX_DECODE_HEADS && block_size.is_multiple_of(16);
        if fits { self.decode } else { self.split }
    }
}

/// Parts of the keys that a query with `context_len` tokens before and at it may see.
fn num_splits(context_len: usize, window: Option<usize>) -> usize {
    let seen = window.map_or(context_len, |window| window.min(context_len));
    // A window may begin in the middle of a part.
    let unaligned = usize::from(window.is_some_and(|window| window < context_len));
    seen.div_ceil(SPLIT_LEN) + unaligned
}
