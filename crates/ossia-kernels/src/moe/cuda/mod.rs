//! The experts on CUDA: `router.cu`; `mxfp4_gate_up.cu` and `mxfp4_down.cu` for few tokens, `sort_slots.cu` and
//! `mxfp4_grouped.cu` for many; `combine.cu`.

#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use device::CudaExperts;

/// As in the kernels' files.
#[repr(C)]
#[derive(Clone, Copy)]
struct RouterArgs {
    logits: u64,
    experts: u64,
    weights: u64,
    num_tokens: u32,
    num_experts: u32,
    top_k: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GateUpArgs {
    blocks: u64,
    scales: u64,
    bias: u64,
    x: u64,
    experts: u64,
    activated: u64,
    num_slots: u32,
    top_k: u32,
    hidden: u32,
    inter: u32,
    limit: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DownArgs {
    blocks: u64,
    scales: u64,
    bias: u64,
    activated: u64,
    experts: u64,
    outputs: u64,
    num_slots: u32,
    hidden: u32,
    inter: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SortSlotsArgs {
    experts: u64,
    starts: u64,
    sorted: u64,
    num_slots: u32,
    num_experts: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GroupedArgs {
    blocks: u64,
    scales: u64,
    bias: u64,
    x: u64,
    starts: u64,
    sorted: u64,
    out: u64,
    num_experts: u32,
    slots_per_x: u32,
    rows: u32,
    cols: u32,
    limit: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CombineArgs {
    outputs: u64,
    shares: u64,
    y: u64,
    top_k: u32,
    hidden: u32,
}

/// Tokens of a block of the router's, one to a warp.
const ROUTER_TOKENS: usize = 4;
/// Weight rows of a block of the projections': four of each of eight warps.
const BLOCK_ROWS: usize = 32;
const THREADS: u32 = 256;
const SORT_THREADS: u32 = 1024;
/// Slots and weight rows of a tile of the grouped projections.
const TILE_SLOTS: usize = 64;
const TILE_ROWS: usize = 128;
