//! More than 16 tokens: weights are staged once and meet all tokens, 32 rows x 32 tokens at a time.

use std::arch::x86_64::{__m512i, _mm512_loadu_si512, _mm512_mask_storeu_epi32};
use std::ops::Range;

use super::GROUP;
use super::kernel::{Sums, TileRun, dot_2x1, dot_2x2};
use super::pack::TiledRows;
use super::stage::Source;
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES, TileConfig};
use crate::matmul::transpose::transpose_16x16;

/// Weight rows per pass.
const ROWS: usize = 2 * GROUP;
/// Blocks of `k` staged at a time: 18 KiB, so that two threads share a first-level cache.
const CHUNK: usize = 9;
/// Groups of tokens whose sums are kept at a time: 64 KiB of second-level cache.
const GROUPS: usize = 32;

/// Staged weights: two runs of tiles, one per 16 rows.
#[repr(C, align(64))]
struct Stage([[[u8; TILE_BYTES]; CHUNK]; 2]);

/// As [`super::product`] for several groups of tokens.
///
/// # Safety
/// As [`super::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &TiledRows, out: &mut [f32]) {
    // SAFETY: AMX was detected; the shapes are full tiles.
    let _tiles = unsafe { TileConfig::with_narrow(&[], TILE_ROW_BYTES).load() };
    let mut stage = Stage([[[0; TILE_BYTES]; CHUNK]; 2]);
    let width = GROUP * GROUPS.min(x.num_groups());
    let mut sums = vec![0f32; ROWS * width];
    for first_group in (0..x.num_groups()).step_by(GROUPS) {
        let groups = first_group..(first_group + GROUPS).min(x.num_groups());
        for start in (0..rows.len()).step_by(ROWS) {
            let count = ROWS.min(rows.len() - start);
            let to = Sums { base: sums.as_mut_ptr(), stride: 4 * width };
            // SAFETY: rows are within the weight; the sums hold 32 rows of `width` tokens.
            unsafe {
                pass(
                    source,
                    rows.start + start..rows.start + start + count,
                    x,
                    groups.clone(),
                    &mut stage,
                    to,
                );
                scatter(&sums, width, groups.start * GROUP, x.num_tokens(), out, rows.len(), start, count);
            }
        }
    }
}

/// All of `k` for up to 32 rows and the groups named.
///
/// # Safety
/// As [`product`]; tiles are configured full; `sums` holds 32 rows of all groups.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pass<S: Source>(
    source: S,
    rows: Range<usize>,
    x: &TiledRows,
    groups: Range<usize>,
    stage: &mut Stage,
    sums: Sums,
) {
    let staged = stage.0.as_mut_ptr().cast::<u8>();
    let a = [0, CHUNK * TILE_BYTES].map(|at| TileRun {
        base: staged.wrapping_add(at),
        stride: TILE_ROW_BYTES,
        step: TILE_BYTES,
    });
    for first in (0..x.num_blocks()).step_by(CHUNK) {
        let num_blocks = CHUNK.min(x.num_blocks() - first);
        // SAFETY: blocks and rows are in range, the stage holds `CHUNK` tiles per 16 rows.
        unsafe {
            for block in 0..num_blocks {
                for (half, a) in a.iter().enumerate() {
                    let count = rows.len().saturating_sub(half * GROUP).min(GROUP);
                    source.stage(rows.start + half * GROUP, count, first + block, a.tile(block).cast_mut());
                }
            }
            multiply_staged(a, x, groups.clone(), first..first + num_blocks, sums);
        }
    }
}

/// The staged blocks with each pair of groups.
///
/// # Safety
/// As [`pass`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn multiply_staged(
    a: [TileRun; 2],
    x: &TiledRows,
    groups: Range<usize>,
    blocks: Range<usize>,
    sums: Sums,
) {
    let run =
        |group: usize| TileRun { base: x.tile(group, blocks.start), stride: x.stride(), step: x.step() };
    let fresh = blocks.start == 0;
    for group in groups.clone().step_by(2) {
        let sums = Sums { base: sums.base.wrapping_add((group - groups.start) * GROUP), ..sums };
        // SAFETY: the groups and blocks are those of `x`; sums have room for all groups.
        unsafe {
            if group + 1 < groups.end {
                dot_2x2(a, [run(group), run(group + 1)], sums, blocks.len(), fresh);
            } else {
                dot_2x1(a, run(group), sums, blocks.len(), fresh);
            }
        }
    }
}

/// Transposes sums `[32, width]` of tokens from `first_token` on into columns `start .. start + count` of
/// `out`, which is `out_width` wide.
///
/// # Safety
/// AVX-512 F.
#[target_feature(enable = "avx512f")]
#[allow(clippy::too_many_arguments)]
unsafe fn scatter(
    sums: &[f32],
    width: usize,
    first_token: usize,
    num_tokens: usize,
    out: &mut [f32],
    out_width: usize,
    start: usize,
    count: usize,
) {
    for half in 0..count.div_ceil(GROUP) {
        let row = half * GROUP;
        let mask = ((1u32 << (count - row).min(GROUP)) - 1) as u16;
        for col in (0..width.min(num_tokens - first_token)).step_by(GROUP) {
            let rows: [__m512i; GROUP] = std::array::from_fn(|r| {
                let at = &sums[(row + r) * width + col..][..GROUP];
                // SAFETY: 64 readable bytes.
                unsafe { _mm512_loadu_si512(at.as_ptr().cast()) }
            });
            for (t, values) in transpose_16x16(rows).into_iter().enumerate() {
                let token = first_token + col + t;
                if token < num_tokens {
                    let at = &mut out[token * out_width + start + row..];
                    // SAFETY: the mask keeps the store within the row of `out`.
                    unsafe { _mm512_mask_storeu_epi32(at.as_mut_ptr().cast(), mask, values) };
                }
            }
        }
    }
}
