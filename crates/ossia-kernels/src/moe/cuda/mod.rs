//! The experts on CUDA: `route.cu`; `mxfp4_mma.cu` for few tokens, `mxfp4_grouped.cu` for many; `combine.cu`.

#[cfg(feature = "cuda")]
mod device;
#[cfg(test)]
mod tests;

#[cfg(feature = "cuda")]
pub(super) use device::CudaExperts;

use crate::gpu::Grid;

/// As in the kernels' files.
#[repr(C)]
#[derive(Clone, Copy)]
struct RouteArgs {
    logits: u64,
    x: u64,
    experts: u64,
    shares: u64,
    sorted: u64,
    tiles: u64,
    packed_x: u64,
    num_tokens: u32,
    num_experts: u32,
    top_k: u32,
    cols: u32,
    tile_slots: u32,
    num_tiles: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Mxfp4Args {
    blocks: u64,
    scales: u64,
    bias: u64,
    x: u64,
    tiles: u64,
    sorted: u64,
    out: u64,
    slots_per_x: u32,
    rows: u32,
    cols: u32,
    limit: f32,
    num_tiles: u32,
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

/// Words of a tile of slots.
const TILE_WORDS: usize = 4;
/// Experts that the router's kernel takes.
#[cfg(feature = "cuda")]
const MAX_EXPERTS: usize = 128;
/// Most tokens for which one block routes as fast as many.
#[cfg(feature = "cuda")]
const MAX_ROUTED_AT_ONCE: usize = 256;
const ROUTE_THREADS: u32 = 1024;
const CHOOSE_THREADS: u32 = 128;
const COMBINE_THREADS: u32 = 256;
/// Largest scale that the kernels take: 2.
const MAX_SCALE: u8 = 128;

/// The kernels of both projections for tiles of so many slots.
#[derive(Clone, Copy, Debug)]
struct Projections {
    gate_up: &'static str,
    down: &'static str,
    tile_slots: usize,
    block_rows: usize,
    threads: u32,
    /// Blocks that a multiprocessor holds, which take tiles in turns; `None` if each tile has blocks of its own.
    resident: Option<usize>,
}

/// From few slots of an expert to many.
const PROJECTIONS: [Projections; 4] = [
    Projections {
        gate_up: "mxfp4_gate_up_mma_8",
        down: "mxfp4_down_mma_8",
        tile_slots: 8,
        block_rows: 16,
        threads: 128,
        resident: Some(4),
    },
    Projections {
        gate_up: "mxfp4_gate_up_mma_16",
        down: "mxfp4_down_mma_16",
        tile_slots: 16,
        block_rows: 16,
        threads: 128,
        resident: Some(4),
    },
    Projections {
        gate_up: "mxfp4_gate_up_mma_32",
        down: "mxfp4_down_mma_32",
        tile_slots: 32,
        block_rows: 32,
        threads: 128,
        resident: Some(2),
    },
    Projections {
        gate_up: "mxfp4_gate_up_grouped",
        down: "mxfp4_down_grouped",
        tile_slots: 128,
        block_rows: 128,
        threads: 128,
        resident: None,
    },
];

impl Projections {
    #[cfg(feature = "cuda")]
    /// The fastest for a batch whose slots spread evenly over the experts.
    fn of(num_slots: usize, num_experts: usize) -> Self {
        PROJECTIONS[match num_slots.div_ceil(num_experts) {
            0..=4 => 0,
            5..=12 => 1,
            13..=32 => 2,
            _ => 3,
        }]
    }

    /// Tiles of slots that are enough for any choice of experts: each may end with one that is not full.
    fn num_tiles(&self, num_slots: usize, num_experts: usize) -> usize {
        num_slots / self.tile_slots + num_experts.min(num_slots)
    }

    /// The grid for `rows` rows on a device of so many multiprocessors.
    fn grid(&self, rows: usize, num_tiles: usize, multiprocessors: usize) -> Grid {
        let strips = rows.div_ceil(self.block_rows);
        let blocks = match self.resident {
            Some(resident) => [(strips * num_tiles).min(resident * multiprocessors), 1, 1],
            None => [strips, num_tiles, 1],
        };
        Grid::new(blocks, self.threads)
    }
}
