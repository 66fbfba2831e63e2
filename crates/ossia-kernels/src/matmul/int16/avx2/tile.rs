//! A panel with tiles of three to six tokens, 16 rows at a time: their sums, two registers a token, leave room for what they
//! are summed from.

use std::arch::x86_64::*;

use super::super::panel::ROWS;
use super::super::wide::{PARTS, Tiles};
use super::super::{LANES, PAIRS};
use super::{WIDTH, add_products_with};

/// Registers of rows.
const HALVES: usize = LANES / WIDTH;

/// As [`Unit::add_tiles`](super::super::Unit::add_tiles).
///
/// # Safety
/// AVX2 and FMA, AVX-VNNI if `VNNI`; panel and tokens hold the blocks.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn add<const VNNI: bool>(mut tiles: Tiles, parts: &mut [f32]) {
    assert_eq!(parts.len(), tiles.count() * tiles.len * PARTS * ROWS);
    for (at, parts) in parts.chunks_exact_mut(tiles.len * PARTS * ROWS).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            match tiles.len {
                3 => add_tile::<3, VNNI>(&tiles, at, parts),
                4 => add_tile::<4, VNNI>(&tiles, at, parts),
                5 => add_tile::<5, VNNI>(&tiles, at, parts),
                6 => add_tile::<6, VNNI>(&tiles, at, parts),
                len => unreachable!("a tile of {len} tokens"),
            }
        }
        tiles.prefetch_share();
    }
}

/// Adds the products of tile `at`, of `T` tokens, to its `parts`, `[tokens, 4, 32 rows]`.
///
/// # Safety
/// As [`add`].
#[target_feature(enable = "avx2,fma")]
unsafe fn add_tile<const T: usize, const VNNI: bool>(tiles: &Tiles, at: usize, parts: &mut [f32]) {
    assert_eq!(parts.len(), T * PARTS * ROWS);
    let (pairs, half_steps) = tiles.tile(at);
    for (block, at) in tiles.blocks.clone().enumerate() {
        for row in (0..ROWS).step_by(LANES) {
            // SAFETY: the panel and the tile hold every block; the parts are those of `T` tokens.
            unsafe {
                let pairs = pairs.add(at * PAIRS * T);
                let sums = block_sums::<T, VNNI>(tiles.panel.pairs(block).add(row), pairs);
                let scales = tiles.panel.scales(at).add(row);
                let half_steps = half_steps.add(at * T);
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

/// Exact sums of one block of 16 rows: `weights` `[16 pairs, 32 rows]` with `x` `[16 pairs, T tokens]`.
///
/// # Safety
/// AVX2; weights and tokens are there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_sums<const T: usize, const VNNI: bool>(
    weights: *const i32,
    x: *const i32,
) -> [[__m256i; HALVES]; T] {
    let mut sums = [[_mm256_setzero_si256(); HALVES]; T];
    for pair in 0..PAIRS {
        // SAFETY: the caller's promise.
        unsafe {
            let w = weights.add(pair * ROWS);
            let w = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(WIDTH).cast())];
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = _mm256_set1_epi32(*x.add(pair * T + t));
                sums[0] = add_products_with::<VNNI>(sums[0], w[0], x);
                sums[1] = add_products_with::<VNNI>(sums[1], w[1], x);
            }
        }
    }
    sums
}
