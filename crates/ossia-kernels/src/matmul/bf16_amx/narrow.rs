//! Up to 16 tokens: the weights stream once through tiles of sums.
//!
//! What limits this path is memory. Its prefetchers follow some thirty streams of addresses and no more, and
//! every weight row is one: tiles that are read where they lie take 16 rows at a time and leave fetching to
//! the hardware (with 64 rows at a time and explicit prefetching it was half as fast). Staged tiles take 32
//! rows, whose two chains of products hide each other's latency, and ask for the next rows in the order in
//! which they lie.

use std::ops::Range;

use super::kernel::TileRun;
use super::pack::TiledRows;
use super::stage::Source;
use super::{BLOCK, GROUP, staging};
use crate::cpu::Scratch;
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES, TileConfig, tile_dot, tile_load, tile_store, tile_zero};

/// Weight rows per pass: two tiles of sums.
const ROWS: usize = TILES * GROUP;
/// Tiles of sums.
const TILES: usize = 2;

/// Bytes of staged tiles of one block.
const STAGE_BYTES: usize = TILES * TILE_BYTES;
/// Blocks that are staged ahead of the one that is multiplied: a tile is loaded when its stores have left the
/// store buffer, which holds more than one block.
const AHEAD: usize = 3;

/// As [`super::product`] for one group of tokens.
///
/// # Safety
/// As [`super::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &TiledRows, out: &mut [f32]) {
    let (num_rows, num_tokens) = (rows.len(), x.num_tokens());
    let config = TileConfig::with_narrow(&[0, 1, 7], x.stride());
    // SAFETY: AMX was detected; a stride is at most 64 bytes.
    let _tiles = unsafe { config.load() };
    let mut stage = staging((AHEAD + 1) * STAGE_BYTES);
    let mut sums = Scratch::new(ROWS * num_tokens);
    for start in (0..num_rows).step_by(ROWS) {
        let count = ROWS.min(num_rows - start);
        // SAFETY: the rows are within the weight; tiles are configured with the width of `x`.
        unsafe { pass(source, rows.start + start, count, x, &mut stage, &mut sums) };
        for (r, sums) in sums.chunks_exact(num_tokens).take(count).enumerate() {
            for (t, sum) in sums.iter().enumerate() {
                out[t * num_rows + start + r] = *sum;
            }
        }
    }
}

/// Adds products of the first tiles of `$a` with the activations to the sums in `$sums`.
macro_rules! dot_where_they_lie {
    ($sums:literal, $a:expr, $x:expr, $num_blocks:expr) => {{
        let a = $a;
        for block in 0..$num_blocks {
            tile_load!(7, $x.tile(0, block), $x.stride());
            tile_load!(4, a.tile(block), a.stride);
            tile_dot!($sums, 4, 7);
        }
    }};
}

/// Rows `row .. row + count` over all of `k`.
///
/// # Safety
/// As [`product`], with tiles configured.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pass<S: Source>(
    source: S,
    row: usize,
    count: usize,
    x: &TiledRows,
    stage: &mut Scratch,
    sums: &mut Scratch,
) {
    let sums = sums.as_mut_ptr();
    let num_blocks = x.num_blocks();
    // SAFETY: as the caller promises; staged blocks are within the columns (padded), direct ones whole.
    unsafe {
        tile_zero!(0);
        tile_zero!(1);
        let mut block = 0;
        if count == ROWS
            && let Some((base, stride)) = source.direct(row)
        {
            block = source.num_whole_blocks();
            dot_where_they_lie!(0, TileRun { base, stride, step: 2 * BLOCK }, x, block);
            let base = base.wrapping_add(GROUP * stride);
            dot_where_they_lie!(1, TileRun { base, stride, step: 2 * BLOCK }, x, block);
        }
        run_staged(source, row, count, block..num_blocks, x, stage);
        tile_store!(0, sums, x.stride());
        tile_store!(1, sums.add(GROUP * x.width()), x.stride());
    }
}

/// Blocks that are staged first, each while one before it is multiplied.
///
/// # Safety
/// As [`pass`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn run_staged<S: Source>(
    source: S,
    row: usize,
    count: usize,
    blocks: Range<usize>,
    x: &TiledRows,
    stage: &mut Scratch,
) {
    if blocks.is_empty() {
        return;
    }
    let rows_of = |tile: usize| count.saturating_sub(tile * GROUP).min(GROUP);
    let stage: *mut u8 = stage.as_mut_ptr().cast();
    // SAFETY: each part of the buffer holds the tiles of a block; blocks are in range.
    unsafe {
        let to = |block: usize, tile: usize| stage.add(block % (AHEAD + 1) * STAGE_BYTES + tile * TILE_BYTES);
        let stage_tile = |block: usize, tile: usize| {
            if block < blocks.end {
                source.stage(row + tile * GROUP, rows_of(tile), block, to(block, tile));
            }
        };
        for block in blocks.start..blocks.start + AHEAD {
            (0..TILES).for_each(|tile| stage_tile(block, tile));
        }
        for block in blocks.clone() {
            source.prefetch_share(row + ROWS, ROWS, block);
            tile_load!(7, x.tile(0, block), x.stride());
            stage_tile(block + AHEAD, 0);
            tile_load!(4, to(block, 0), TILE_ROW_BYTES);
            tile_dot!(0, 4, 7);
            stage_tile(block + AHEAD, 1);
            tile_load!(5, to(block, 1), TILE_ROW_BYTES);
            tile_dot!(1, 5, 7);
        }
    }
}
