//! bf16 products with AMX: weights become bf16 tiles without rounding, sums are f32 in tile registers.
//!
//! A tile product multiplies 16 weight rows with up to 16 tokens over 32 values of `k`; rows and tokens
//! never meet. Tiles come in groups of four, 128 values of `k`, which the four tiles share out as the format
//! of the weights likes best. A (row, token) sum is fed the same tiles in ascending order, with one token
//! and with a thousand, so its bits are the same.
//!
//! Inside, the unit adds the even and the odd products of a tile apart, then both to the sum; it takes
//! subnormal bf16 inputs as zero and flushes subnormal results to zero. A NaN or infinity (also those that
//! MXFP4 scales from 253 up stand for) travels as in f32.

mod pack;
mod pass;
mod stage;

use std::ops::Range;

use crate::cpu::Scratch;
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES, TileConfig};
use crate::weight::{Format, MatrixView};
use pass::{Pass, ROWS};
use stage::{Mxfp4, RowMajor, Source, TileRows, Transposed};

pub(crate) use pack::TiledRows;

/// Values of `k` per tile.
const BLOCK: usize = 32;
/// Tiles of a group.
const PARTS: usize = 4;
/// Values of `k` per group.
const GROUP: usize = PARTS * BLOCK;
/// Rows or tokens per tile.
const SIDE: usize = 16;

/// Tiles of tokens that are taken through all rows before the next ones: as many as leave room for the rows in the
/// second-level cache.
const TOKEN_TILES: usize = 6;

/// As [`super::multiply`].
///
/// # Safety
/// AMX was detected; `rows` within the weight; `x` packed for it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &TiledRows, out: &mut [f32]) {
    assert_eq!(out.len(), rows.len() * x.num_tokens());
    assert_eq!(weight.cols.div_ceil(GROUP), x.num_groups());
    // SAFETY: the caller's promise; the lengths were checked.
    unsafe {
        match weight.format {
            Format::Mxfp4 { blocks, scales } => {
                product(Mxfp4::new(blocks, scales, weight.cols), rows, x, out);
            }
            Format::Bf16(bytes) => product(RowMajor::new(bytes, weight.cols), rows, x, out),
            Format::Bf16Transposed(bytes) => {
                product(Transposed::new(bytes, weight.rows, weight.cols), rows, x, out);
            }
            Format::F32(_) | Format::Int8(_) => unreachable!("these weights are not exact in bf16"),
        }
    }
}

/// # Safety
/// As [`multiply`], with lengths checked.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &TiledRows, out: &mut [f32]) {
    if x.num_tokens() == 0 {
        return;
    }
    // SAFETY: AMX was detected; a stride is at most 64 bytes.
    let _tiles = unsafe { TileConfig::with_narrow(&pass::TOKEN_WIDE, x.stride()).load() };
    let mut staged = Scratch::new(pass::STAGED_BYTES / size_of::<f32>());
    let mut sums = Scratch::new(pass::SUMS_BYTES / size_of::<f32>());
    let width = rows.len();
    let mut rest = rows.clone();
    if S::IS_SPREAD && x.num_tiles() == 1 {
        // SAFETY: the caller's promise; tiles are configured with the width of `x`.
        rest.start = unsafe { spread_product(source, rows.clone(), x, &mut staged, &mut sums, out) };
    }
    for first_tile in (0..x.num_tiles()).step_by(TOKEN_TILES) {
        let tiles = first_tile..x.num_tiles().min(first_tile + TOKEN_TILES);
        for row in rest.clone().step_by(ROWS) {
            let count = ROWS.min(rest.end - row);
            // SAFETY: the rows are within the weight.
            let pass = Pass { source: unsafe { source.at_rows(row, count) }, row, count, x };
            let mut tile = tiles.start;
            while tile < tiles.end {
                let num_tiles = next_tiles(tiles.end - tile);
                // SAFETY: rows and tokens are there, tiles are configured with the width of `x`.
                unsafe {
                    match num_tiles {
                        1 => pass.run::<1>(tile, tile == 0, &mut staged, &mut sums),
                        2 => pass.run::<2>(tile, tile == 0, &mut staged, &mut sums),
                        _ => pass.run::<3>(tile, tile == 0, &mut staged, &mut sums),
                    }
                    pass.scatter(tile, num_tiles, &sums, row - rows.start, out, width);
                }
                tile += num_tiles;
            }
        }
    }
}

/// The products of most rows with the only tile of tokens; returns the first row that is left.
///
/// # Safety
/// As [`product`], with tiles configured.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn spread_product<S: Source>(
    source: S,
    rows: Range<usize>,
    x: &TiledRows,
    staged: &mut Scratch,
    sums: &mut Scratch,
    out: &mut [f32],
) -> usize {
    let mut row = rows.start;
    // Rows of one pass lie sixteen apart, or fewer where there are not enough.
    for spacing in [16, 8, 4] {
        while rows.end - row >= SIDE * spacing {
            // SAFETY: the rows are within the weight.
            let source = unsafe { source.at_rows(row, SIDE * spacing) };
            for first in row..row + spacing {
                // SAFETY: as above; the caller's promise.
                unsafe {
                    pass::run_spread(source, TileRows { first, spacing, count: SIDE }, x, staged, sums)
                };
                for (token, out) in out.chunks_exact_mut(rows.len()).enumerate() {
                    let sums = sums[token..].iter().step_by(x.width());
                    let out = out[first - rows.start..].iter_mut().step_by(spacing).take(SIDE);
                    out.zip(sums).for_each(|(out, sum)| *out = *sum);
                }
            }
            row += SIDE * spacing;
        }
    }
    row
}

/// How many tiles the next pass takes of `left`: three, but for two twice rather than three and one.
fn next_tiles(left: usize) -> usize {
    match left {
        4 => 2,
        _ => left.min(pass::MAX_TILES),
    }
}

const _: () = assert!(TILE_BYTES == SIDE * TILE_ROW_BYTES && TILE_ROW_BYTES == 2 * BLOCK);
