//! Attention on Metal: `rope_and_cache.metal`, then `paged_attention.metal` for queries one by one and `tiled_attention.metal` for
//! the many of a prompt.

#[cfg(feature = "metal")]
mod device;
#[cfg(test)]
mod tests;

#[cfg(feature = "metal")]
pub(super) use device::{MetalBatch, fits};

/// As in the kernels' files.
#[repr(C)]
#[derive(Clone, Copy)]
struct RopeAndCacheArgs {
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct PagedAttentionArgs {
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    block_size: u32,
    window: u32,
    scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct TiledAttentionArgs {
    count: u32,
    num_heads: u32,
    num_kv_heads: u32,
    block_size: u32,
    window: u32,
    scale: f32,
}

const THREADS: u32 = 256;
/// Heads, rows and threads of `tiled_attention.metal`.
const TILED_HEAD_DIM: usize = 64;
const TILE_ROWS: usize = 32;
const TILED_THREADS: u32 = 128;
