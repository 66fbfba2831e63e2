//! A few tokens with MXFP4: each weight is read once, as it lies in memory, and decoded in registers.

use std::arch::aarch64::*;
use std::ops::Range;

use super::super::activations::{PackedRow, passes};
use super::super::{BLOCK, Int16Rows, LANES, Mxfp4Rows, PLANES};
use super::{WIDTH, decode_by_shift};
use crate::mxfp4;

/// Rows at a time: their block sums, four lanes each, are added up together.
const ROWS: usize = WIDTH;
/// Most tokens at a time.
const TOKENS: usize = 4;
/// Bytes of a block's codes.
const CODES: usize = BLOCK / 2;
/// Partial sums of a row, by block.
const PARTS: usize = 4;

/// As [`super::super::multiply`], up to [`TOKENS`] tokens at a time.
///
/// # Safety
/// As [`super::super::multiply`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn multiply(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    for tokens in passes(x.num_tokens(), TOKENS) {
        let out = &mut out[tokens.start * rows.len()..tokens.end * rows.len()];
        // SAFETY: the caller's promise.
        unsafe {
            match tokens.len() {
                1 => product::<1>(weight, rows.clone(), x, tokens.start, out),
                2 => product::<2>(weight, rows.clone(), x, tokens.start, out),
                3 => product::<3>(weight, rows.clone(), x, tokens.start, out),
                _ => product::<TOKENS>(weight, rows.clone(), x, tokens.start, out),
            }
        }
    }
}

/// # Safety
/// As [`multiply`]; `x` has `T` tokens from `first_token`.
#[target_feature(enable = "neon")]
unsafe fn product<const T: usize>(
    weight: Mxfp4Rows,
    rows: Range<usize>,
    x: &Int16Rows,
    first_token: usize,
    out: &mut [f32],
) {
    let width = rows.len();
    let tokens = std::array::from_fn(|t| x.row(first_token + t));
    for first in (0..width).step_by(ROWS) {
        // Past the last row the last one is taken again; its sums are dropped.
        let row_of = |r: usize| rows.start + (first + r).min(width - 1);
        // SAFETY: the caller's promise; rows are in range.
        let sums = unsafe { four_rows::<T>(weight, std::array::from_fn(row_of), &tokens) };
        for (t, sums) in sums.iter().enumerate() {
            let count = ROWS.min(width - first);
            out[t * width + first..][..count].copy_from_slice(&sums[..count]);
        }
    }
}

/// The products of four rows with `T` tokens.
///
/// # Safety
/// As [`product`]; each row is in range.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn four_rows<const T: usize>(
    weight: Mxfp4Rows,
    rows: [usize; ROWS],
    tokens: &[PackedRow; T],
) -> [[f32; ROWS]; T] {
    let codes = rows.map(|row| weight.blocks[row * weight.num_blocks * CODES..].as_ptr());
    let scales = rows.map(|row| &weight.scales[row * weight.num_blocks..][..weight.num_blocks]);
    let mut parts = [[vdupq_n_f32(0.0); PARTS]; T];
    for block in 0..weight.num_blocks {
        let mut block_sums = [[vdupq_n_s32(0); ROWS]; T];
        let scales = scales.map(|scales| mxfp4::decode_scale(scales[block]));
        // SAFETY: the rows and the packed rows have the block; four scales fill a register.
        unsafe {
            for (r, codes) in codes.iter().enumerate() {
                let weights = decode_by_shift(vld1q_u8(codes.add(block * CODES)));
                for (sums, (pairs, _)) in block_sums.iter_mut().zip(tokens) {
                    for (s, weights) in weights.into_iter().enumerate() {
                        let at = (block / 4 * PLANES + s) * LANES + 4 * (block % 4);
                        let x = vld1q_s16(pairs.add(at).cast());
                        let sum = vmlal_s16(sums[r], vget_low_s16(weights), vget_low_s16(x));
                        sums[r] = vmlal_high_s16(sum, weights, x);
                    }
                }
            }
            let scales = vld1q_f32(scales.as_ptr());
            for t in 0..T {
                let half_step = *tokens[t].1.add(block / 4 * LANES + 4 * (block % 4));
                let part = &mut parts[t][block % PARTS];
                let sum = vcvtq_f32_s32(add_lanes(block_sums[t]));
                *part = vfmaq_f32(*part, sum, vmulq_n_f32(scales, half_step));
            }
        }
    }
    let mut out = [[0f32; ROWS]; T];
    for (out, [p0, p1, p2, p3]) in out.iter_mut().zip(parts) {
        // SAFETY: four values are a register long.
        unsafe { vst1q_f32(out.as_mut_ptr(), vaddq_f32(vaddq_f32(p0, p2), vaddq_f32(p1, p3))) };
    }
    out
}

/// The sums of the lanes of four registers.
#[inline]
#[target_feature(enable = "neon")]
fn add_lanes([a, b, c, d]: [int32x4_t; ROWS]) -> int32x4_t {
    vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d))
}
