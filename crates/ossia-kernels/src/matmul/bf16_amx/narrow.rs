//! Up to 16 tokens: the weights stream once through four tiles of sums, 64 rows at a time.

use std::ops::Range;

use super::kernel::TileRun;
use super::pack::TiledRows;
use super::stage::Source;
use super::{BLOCK, GROUP, staging};
use crate::cpu::Scratch;
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES, TileConfig, tile_dot, tile_load, tile_store, tile_zero};

/// Weight rows per pass.
const ROWS: usize = 4 * GROUP;
/// Tiles of sums, and of weights per block.
const TILES: usize = 4;

/// Bytes of staged tiles of one block; two are staged, one being filled while the other is used.
const STAGE_BYTES: usize = TILES * TILE_BYTES;

/// As [`super::product`] for one group of tokens.
///
/// # Safety
/// As [`super::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &TiledRows, out: &mut [f32]) {
    let (num_rows, num_tokens) = (rows.len(), x.num_tokens());
    let config = TileConfig::with_narrow(&[0, 1, 2, 3, 7], x.stride());
    // SAFETY: AMX was detected; a stride is at most 64 bytes.
    let _tiles = unsafe { config.load() };
    let mut stage = staging(2 * STAGE_BYTES);
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
    let num_blocks = x.num_blocks();
    // SAFETY: as the caller promises; staged blocks are within the columns (padded), direct ones whole.
    unsafe {
        tile_zero!(0);
        tile_zero!(1);
        tile_zero!(2);
        tile_zero!(3);
        let direct = if count == ROWS { source.direct(row) } else { None };
        let mut block = 0;
        if let Some((base, stride)) = direct {
            block = source.num_whole_blocks();
            run_direct(source, row, TileRun { base, stride, step: 2 * BLOCK }, x, block);
        }
        run_staged(source, row, count, block..num_blocks, x, stage);
        let base = sums.as_mut_ptr();
        let step = GROUP * x.width();
        tile_store!(0, base, x.stride());
        tile_store!(1, base.add(step), x.stride());
        tile_store!(2, base.add(2 * step), x.stride());
        tile_store!(3, base.add(3 * step), x.stride());
    }
}

/// Blocks `0 .. num_blocks` of 64 rows that lie in memory as tiles.
///
/// # Safety
/// As [`pass`]; `a` is the first tile.
#[target_feature(enable = "avx512f")]
unsafe fn run_direct<S: Source>(source: S, row: usize, a: TileRun, x: &TiledRows, num_blocks: usize) {
    // SAFETY: 64 rows of whole blocks are readable.
    unsafe {
        let next = GROUP * a.stride;
        for block in 0..num_blocks {
            source.prefetch_share(row + ROWS, ROWS, block);
            let at = a.tile(block);
            tile_load!(7, x.tile(0, block), x.stride());
            tile_load!(4, at, a.stride);
            tile_dot!(0, 4, 7);
            tile_load!(5, at.wrapping_add(next), a.stride);
            tile_dot!(1, 5, 7);
            tile_load!(6, at.wrapping_add(2 * next), a.stride);
            tile_dot!(2, 6, 7);
            tile_load!(4, at.wrapping_add(3 * next), a.stride);
            tile_dot!(3, 4, 7);
        }
    }
}

/// Blocks that are staged first, each while the one before it is multiplied.
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
    // SAFETY: the two halves of the buffer hold four tiles each; blocks are in range.
    unsafe {
        let to = |block: usize, tile: usize| stage.add(block % 2 * STAGE_BYTES + tile * TILE_BYTES);
        for tile in 0..TILES {
            let block = blocks.start;
            source.stage(row + tile * GROUP, rows_of(tile), block, to(block, tile));
        }
        for block in blocks.clone() {
            source.prefetch_share(row + ROWS, ROWS, block);
            let next = (block + 1).min(blocks.end - 1);
            tile_load!(7, x.tile(0, block), x.stride());
            source.stage(row, rows_of(0), next, to(block + 1, 0));
            tile_load!(4, to(block, 0), TILE_ROW_BYTES);
            tile_dot!(0, 4, 7);
            source.stage(row + GROUP, rows_of(1), next, to(block + 1, 1));
            tile_load!(5, to(block, 1), TILE_ROW_BYTES);
            tile_dot!(1, 5, 7);
            source.stage(row + 2 * GROUP, rows_of(2), next, to(block + 1, 2));
            tile_load!(6, to(block, 2), TILE_ROW_BYTES);
            tile_dot!(2, 6, 7);
            source.stage(row + 3 * GROUP, rows_of(3), next, to(block + 1, 3));
            tile_load!(4, to(block, 3), TILE_ROW_BYTES);
            tile_dot!(3, 4, 7);
        }
    }
}
