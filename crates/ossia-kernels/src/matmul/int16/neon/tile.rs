//! A panel with a tile of tokens, up to four of them and 16 rows at a time: their sums, four registers a token, leave room
//! for what they are summed from.

use std::arch::aarch64::*;

use super::super::activations::passes;
use super::super::panel::ROWS;
use super::super::wide::{PARTS, Tile};
use super::super::{LANES, PAIRS};
use super::{WIDTH, dot};

/// Registers of rows.
pub(super) const QUARTERS: usize = LANES / WIDTH;
/// Most tokens at a time.
const TOKENS: usize = 4;

/// As [`Unit::add_tile`](super::super::Unit::add_tile).
///
/// # Safety
/// NEON, with products of bytes if `DOT`; panel and tokens hold the blocks, as bytes if `DOT`.
#[target_feature(enable = "neon")]
pub(super) unsafe fn add<const DOT: bool>(tile: &Tile, parts: &mut [f32]) {
    assert_eq!(parts.len(), tile.num_tokens * PARTS * ROWS);
    for tokens in passes(tile.num_tokens, TOKENS) {
        let parts = &mut parts[tokens.start * PARTS * ROWS..tokens.end * PARTS * ROWS];
        // SAFETY: the caller's promise; the tile has the tokens.
        unsafe {
            match tokens.len() {
                1 => add_tokens::<1, DOT>(tile, tokens.start, parts),
                2 => add_tokens::<2, DOT>(tile, tokens.start, parts),
                3 => add_tokens::<3, DOT>(tile, tokens.start, parts),
                _ => add_tokens::<TOKENS, DOT>(tile, tokens.start, parts),
            }
        }
    }
}

/// Adds the products of `T` tokens from `first` to their `parts`, `[tokens, 4, 32 rows]`.
///
/// # Safety
/// As [`add`]; the tile has the tokens.
#[target_feature(enable = "neon")]
unsafe fn add_tokens<const T: usize, const DOT: bool>(tile: &Tile, first: usize, parts: &mut [f32]) {
    assert_eq!(parts.len(), T * PARTS * ROWS);
    let stride = tile.num_tokens;
    for block in 0..tile.num_blocks {
        let at = tile.first_block + block;
        for row in (0..ROWS).step_by(LANES) {
            // SAFETY: the panel and the tile hold every block; the parts are those of `T` tokens.
            unsafe {
                let pairs = tile.pairs.add(at * PAIRS * stride + first);
                let weights = tile.panel.pairs(block).add(row);
                let sums = match DOT {
                    true => dot::block_sums::<T>(weights, pairs, stride),
                    false => block_sums::<T>(weights, pairs, stride),
                };
                let scales = tile.panel.scales(at).add(row);
                let half_steps = tile.half_steps.add(at * stride + first);
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
/// `[16 pairs, stride]`, of which `T` tokens.
///
/// # Safety
/// NEON; weights and tokens are there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block_sums<const T: usize>(
    weights: *const i32,
    x: *const i32,
    stride: usize,
) -> [[int32x4_t; QUARTERS]; T] {
    let mut sums = [[vdupq_n_s32(0); QUARTERS]; T];
    for pair in 0..PAIRS {
        for second in 0..2 {
            // SAFETY: the caller's promise.
            unsafe {
                let w = weights.add(pair * ROWS).cast::<i16>().add(second * LANES);
                let w = [vld1q_s16(w), vld1q_s16(w.add(2 * WIDTH))];
                for (t, [a, b, c, d]) in sums.iter_mut().enumerate() {
                    let x = *x.add(pair * stride + t).cast::<i16>().add(second);
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
