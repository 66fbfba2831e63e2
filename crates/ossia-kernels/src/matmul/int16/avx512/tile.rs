//! A panel with a tile of six to twelve tokens: their sums, two registers each, leave room for what they are summed from.

use std::arch::x86_64::*;

use super::super::panel::{ROWS, WIDTH};
use super::super::wide::{PARTS, Tile};
use super::super::{LANES, PAIRS};
use super::add_products;

/// Partial sums of a token with the rows of a panel.
type Parts = [[[f32; LANES]; WIDTH]; PARTS];

/// As [`Unit::merge`](super::super::Unit::merge).
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn merge(parts: &[f32], out: &mut [f32]) {
    assert!(parts.len() == PARTS * ROWS && out.len() <= ROWS);
    for (half, out) in out.chunks_mut(LANES).enumerate() {
        // SAFETY: the parts are whole registers; the mask keeps to what there is of `out`.
        unsafe {
            let from = parts.as_ptr().add(half * LANES);
            let p02 = _mm512_add_ps(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(2 * ROWS)));
            let p13 = _mm512_add_ps(_mm512_loadu_ps(from.add(ROWS)), _mm512_loadu_ps(from.add(3 * ROWS)));
            let mask = u16::MAX >> (LANES - out.len());
            _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, _mm512_add_ps(p02, p13));
        }
    }
}

/// As [`Unit::add_tile`](super::super::Unit::add_tile).
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI; panel and tokens hold the blocks; `parts` begin on a cache line.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn add(tile: &Tile, parts: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.num_tokens {
            6 => add_tokens::<6>(tile, parts),
            7 => add_tokens::<7>(tile, parts),
            8 => add_tokens::<8>(tile, parts),
            9 => add_tokens::<9>(tile, parts),
            10 => add_tokens::<10>(tile, parts),
            11 => add_tokens::<11>(tile, parts),
            12 => add_tokens::<12>(tile, parts),
            len => unreachable!("a tile of {len} tokens"),
        }
    }
}

/// Adds the products to `parts`, [`Parts`] of `T` tokens.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI; panel and tokens hold the blocks, the tile has `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_tokens<const T: usize>(tile: &Tile, parts: &mut [f32]) {
    assert_eq!(parts.len(), T * size_of::<Parts>() / size_of::<f32>());
    let parts = parts.as_mut_ptr().cast::<Parts>();
    for block in 0..tile.num_blocks {
        let at = tile.first_block + block;
        // SAFETY: the panel and the tile hold every block; the parts are those of `T` tokens.
        unsafe {
            let sums = block_sums::<T>(tile.panel.pairs(block), tile.pairs.add(at * PAIRS * T));
            let scales = tile.panel.scales(at);
            let scales = [_mm512_load_ps(scales), _mm512_load_ps(scales.add(LANES))];
            let half_steps = tile.half_steps.add(at * T);
            for (t, sums) in sums.into_iter().enumerate() {
                let half_step = _mm512_set1_ps(*half_steps.add(t));
                for w in 0..WIDTH {
                    let part = (&raw mut (*parts.add(t))[block % PARTS][w]).cast::<f32>();
                    let scale = _mm512_mul_ps(scales[w], half_step);
                    let sum = _mm512_cvtepi32_ps(sums[w]);
                    _mm512_store_ps(part, _mm512_fmadd_ps(sum, scale, _mm512_load_ps(part)));
                }
            }
        }
    }
}

/// Exact sums of one block: `weights` `[16 pairs, 32 rows]` with `x` `[16 pairs, T tokens]`.
///
/// # Safety
/// AVX-512 VNNI; `weights` starts on a cache line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block_sums<const T: usize>(weights: *const i32, x: *const i32) -> [[__m512i; WIDTH]; T] {
    let mut sums = [[_mm512_setzero_si512(); WIDTH]; T];
    for pair in 0..PAIRS {
        // SAFETY: the caller's promise.
        unsafe {
            let w = weights.add(pair * ROWS);
            let w = [_mm512_load_si512(w.cast()), _mm512_load_si512(w.add(LANES).cast())];
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(*x.add(pair * T + t));
                sums[0] = add_products(sums[0], w[0], x);
                sums[1] = add_products(sums[1], w[1], x);
            }
        }
    }
    sums
}
