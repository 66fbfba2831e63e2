//! A panel with tiles of three or four tokens, 16 rows at a time: their sums, four registers a token, leave room for what
//! they are summed from.

use std::arch::aarch64::*;

use super::super::panel::ROWS;
use super::super::wide::{PARTS, Tiles};
use super::super::{LANES, PAIRS};
use super::{WIDTH, dot};

/// Registers of rows.
pub(super) const QUARTERS: usize = LANES / WIDTH;

/// As [`Unit::add_tiles`](super::super::Unit::add_tiles).
///
/// # Safety
/// NEON, with products of bytes if `DOT`; panel and tokens hold the blocks, as bytes if `DOT`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn add<const DOT: bool>(mut tiles: Tiles, parts: &mut [f32]) {
    assert_eq!(parts.len(), tiles.count() * tiles.len * PARTS * ROWS);
    for (at, parts) in parts.chunks_exact_mut(tiles.len * PARTS * ROWS).enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            match tiles.len {
                3 => add_tile::<3, DOT>(&tiles, at, parts),
                4 => add_tile::<4, DOT>(&tiles, at, parts),
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
#[target_feature(enable = "neon")]
unsafe fn add_tile<const T: usize, const DOT: bool>(tiles: &Tiles, at: usize, parts: &mut [f32]) {
    assert_eq!(parts.len(), T * PARTS * ROWS);
    let (pairs, half_steps) = tiles.tile(at);
    for (block, at) in tiles.blocks.clone().enumerate() {
        for row in (0..ROWS).step_by(LANES) {
            // SAFETY: the panel and the tile hold every block; the parts are those of `T` tokens.
            unsafe {
                let pairs = pairs.add(at * PAIRS * T);
                let weights = tiles.panel.pairs(block).add(row);
                let sums = match DOT {
                    true => dot::block_sums::<T>(weights, pairs),
                    false => block_sums::<T>(weights, pairs),
                };
                let scales = tiles.panel.scales(at).add(row);
                let half_steps = half_steps.add(at * T);
                for quarter in 0..QUARTERS {
                    let scales = vld1q_f32(scales.add(quarter * WIDTH));
                    for (t, sums) in sums.iter().enumerate() {
                        let scale = vmulq_n_f32(scales, *half_steps.add(t));
                        let at = (t * PARTS + block % PARTS) * ROWS + row + quarter * WIDTH;
                        let part = parts.as_mut_ptr().add(at);
                        vst1q_f32(part, vfmaq_f32(vld1q_f32(part), vcvtq_f32_s32(sums[quarter]), scale));
                    }
                }
            }
        }
    }
}

/// Exact sums of one block of 16 rows: `weights` `[16 pairs, 32 rows]`, as [`super::panel`] lays them out, with `x`
/// `[16 pairs, T tokens]`.
///
/// # Safety
/// NEON; weights and tokens are there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block_sums<const T: usize>(weights: *const i32, x: *const i32) -> [[int32x4_t; QUARTERS]; T] {
    let mut sums = [[vdupq_n_s32(0); QUARTERS]; T];
    for pair in 0..PAIRS {
        for second in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                let w = weights.add(pair * ROWS).cast::<i16>().add(second * LANES);
                let w = [vld1q_s16(w), vld1q_s16(w.add(2 * WIDTH))];
                for (t, [a, b, c, d]) in sums.iter_mut().enumerate() {
                    let x = *x.add(pair * T + t).cast::<i16>().add(second);
                    *a = vmlal_n_s16(*a, vget_low_s16(w[0]), x);
                    *b = vmlal_high_n_s16(*b, w[0], x);
                    *c = vmlal_n_s16(*c, vget_low_s16(w[1]), x);
                    *d = vmlal_high_n_s16(*d, w[1], x);
                }
            }
        }
    }
    sums
}
