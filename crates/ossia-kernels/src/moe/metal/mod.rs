//! The experts on Metal: `router.metal`; `mxfp4_gemv.metal` for few tokens, `sort_slots.metal` and `mxfp4_grouped.metal` for
//! many; `combine.metal`.

#[cfg(feature = "metal")]
mod device;
#[cfg(test)]
mod tests;

#[cfg(feature = "metal")]
pub(super) use device::MetalExperts;

/// As in the kernels' files.
#[repr(C)]
#[derive(Clone, Copy)]
struct RouterArgs {
    num_tokens: u32,
    num_experts: u32,
    top_k: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Mxfp4Args {
    num_slots: u32,
    slots_per_x: u32,
    rows: u32,
    cols: u32,
    limit: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct SortSlotsArgs {
    num_slots: u32,
    num_experts: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct GroupedArgs {
    num_experts: u32,
    slots_per_x: u32,
    rows: u32,
    cols: u32,
    limit: f32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CombineArgs {
    top_k: u32,
    hidden: u32,
}

/// Tokens of a threadgroup of the router's, one to a simdgroup.
const ROUTER_TOKENS: usize = 4;
/// Weight rows of a threadgroup of the projections'.
const GROUP_ROWS: usize = 32;
const THREADS: u32 = 256;
/// Slots and weight rows of a tile of the grouped projections, and its threads.
const TILE_SLOTS: usize = 32;
const TILE_ROWS: usize = 64;
const GROUPED_THREADS: u32 = 128;
/// A thread per expert that may be.
const SORT_THREADS: u32 = 128;
