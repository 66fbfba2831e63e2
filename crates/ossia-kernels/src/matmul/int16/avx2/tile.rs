//! A panel with a tile of tokens, up to six of them and 16 rows at a time: their sums, two registers a token, leave room for
//! what they are summed from.

use std::arch::x86_64::*;

use super::super::activations::passes;
use super::super::panel::ROWS;
use super::super::wide::{PARTS, Tile};
use super::super::{LANES, PAIRS};
use super::{WIDTH, add_products_with};

/// Registers of rows.
const HALVES: usize = LANES / WIDTH;
/// Most tokens at a time.
const TOKENS: usize = 6;

/// As [`Unit::add_tile`](super::super::Unit::add_tile).
///
/// # Safety
/// AVX2 and FMA; panel and tokens hold the blocks.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn add<const VNNI: bool>(tile: &Tile, parts: &mut [f32]) {
    assert_eq!(parts.len(), tile.num_tokens * PARTS * ROWS);
    for tokens in passes(tile.num_tokens, TOKENS) {
        let parts = &mut parts[tokens.start * PARTS * ROWS..tokens.end * PARTS * ROWS];
        // SAFETY: the caller's promise; the tile has the tokens.
        unsafe {
            match tokens.len() {
                1 => add_tokens::<1, VNNI>(tile, tokens.start, parts),
                2 => add_tokens::<2, VNNI>(tile, tokens.start, parts),
                3 => add_tokens::<3, VNNI>(tile, tokens.start, parts),
                4 => add_tokens::<4, VNNI>(tile, tokens.start, parts),
                5 => add_tokens::<5, VNNI>(tile, tokens.start, parts),
                _ => add_tokens::<TOKENS, VNNI>(tile, tokens.start, parts),
            }
        }
    }
}

/// Adds the products of `T` tokens from `first` to their `parts`, `[tokens, 4, 32 rows]`.
///
/// # Safety
/// As [`add`]; the tile has the tokens.
#[target_feature(enable = "avx2,fma")]
unsafe fn add_tokens<const T: usize, const VNNI: bool>(tile: &Tile, first: usize, parts: &mut [f32]) {
    assert_eq!(parts.len(), T * PARTS * ROWS);
    let stride = tile.num_tokens;
    for block in 0..tile.num_blocks {
        let at = tile.first_block + block;
        for row in (0..ROWS).step_by(LANES) {
            // SAFETY: the panel and the tile hold every block; the parts are those of `T` tokens.
            unsafe {
                let pairs = tile.pairs.add(at * PAIRS * stride + first);
                let sums = block_sums::<T, VNNI>(tile.panel.pairs(block).add(row), pairs, stride);
                let scales = tile.panel.scales(at).add(row);
                let half_steps = tile.half_steps.add(at * stride + first);
                for half in 0..HALVES {
                    let scales = _mm256_loadu_ps(scales.add(half * WIDTH));
                    for (t, sums) in sums.iter().enumerate() {
                        let scale = _mm256_mul_ps(scales, _mm256_set1_ps(*half_steps.add(t)));
                        let part =
                            parts.as_mut_ptr().add((t * PARTS + block % PARTS) * ROWS + row + half * WIDTH);
                        let sum = _mm256_cvtepi32_ps(sums[half]);
                        _mm256_storeu_ps(part, _mm256_fmadd_ps(sum, scale, _mm256_loadu_ps(part)));
                    }
                }
            }
        }
    }
}

/// Exact sums of one block of 16 rows: `weights` `[16 pairs, 32 rows]` with `x` `[16 pairs, stride]`, of which `T` tokens.
///
/// # Safety
/// AVX2; weights and tokens are there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_sums<const T: usize, const VNNI: bool>(
    weights: *const i32,
    x: *const i32,
    stride: usize,
) -> [[__m256i; HALVES]; T] {
    let mut sums = [[_mm256_setzero_si256(); HALVES]; T];
    for pair in 0..PAIRS {
        // SAFETY: the caller's promise.
        unsafe {
            let w = weights.add(pair * ROWS);
            let w = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(WIDTH).cast())];
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(*x.add(pair * stride + t));
                sums[0] = add_products_with::<VNNI>(sums[0], w[0], x);
                sums[1] = add_products_with::<VNNI>(sums[1], w[1], x);
            }
        }
    }
    sums
}
