//! A few tokens with weights of 8 or 10 bits: 16 rows of a panel, the two products of a pair in lanes of their own.

use std::arch::aarch64::*;
use std::ops::Range;

use super::super::activations::{PackedRow, passes};
use super::super::{BLOCK, Int16Rows, LANES, PLANES};
use super::{WIDTH, widen, widen_with};
use crate::weight::Int8View;

/// Registers that hold a dword of each of a panel's rows.
const QUARTERS: usize = LANES / WIDTH;
/// Dwords of a row's block, two pairs each.
const DWORDS: usize = BLOCK / 4;
/// Dwords of a row's low bits in a block.
const LOW_DWORDS: usize = 2;
/// Partial sums of a row, by block.
const PARTS: usize = 4;
/// Most tokens at a time: eight registers of sums each.
const TOKENS: usize = 2;

/// As [`super::super::multiply`], up to [`TOKENS`] tokens at a time; `rows` start with a panel.
///
/// # Safety
/// As [`super::super::multiply`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn multiply(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    for tokens in passes(x.num_tokens(), TOKENS) {
        let out = &mut out[tokens.start * rows.len()..tokens.end * rows.len()];
        // SAFETY: the caller's promise.
        unsafe {
            match tokens.len() {
                1 => product::<1>(weight, rows.clone(), x, tokens.start, out),
                _ => product::<TOKENS>(weight, rows.clone(), x, tokens.start, out),
            }
        }
    }
}

/// # Safety
/// As [`multiply`]; `x` has `T` tokens from `first_token`.
#[target_feature(enable = "neon")]
unsafe fn product<const T: usize>(
    weight: Int8View,
    rows: Range<usize>,
    x: &Int16Rows,
    first_token: usize,
    out: &mut [f32],
) {
    let width = rows.len();
    let tokens = std::array::from_fn(|t| x.row(first_token + t));
    for first in (0..width).step_by(LANES) {
        let panel = (rows.start + first) / LANES;
        // SAFETY: the caller's promise; the panel is in range.
        let sums = unsafe {
            match weight.low_bits.is_empty() {
                true => product_of_panel::<T, false>(weight, panel, &tokens),
                false => product_of_panel::<T, true>(weight, panel, &tokens),
            }
        };
        for (t, sums) in sums.iter().enumerate() {
            let count = LANES.min(width - first);
            out[t * width + first..][..count].copy_from_slice(&sums[..count]);
        }
    }
}

/// The products of the 16 rows of a panel with `T` tokens; `LOW` if the weights have low bits.
///
/// # Safety
/// As [`product`]; the panel is there.
#[target_feature(enable = "neon")]
unsafe fn product_of_panel<const T: usize, const LOW: bool>(
    weight: Int8View,
    panel: usize,
    tokens: &[PackedRow; T],
) -> [[f32; LANES]; T] {
    let mut parts = [[[0f32; LANES]; PARTS]; T];
    for block in 0..weight.num_blocks {
        let at = panel * weight.num_blocks + block;
        let scales = &weight.double_scales[at * LANES..][..LANES];
        // SAFETY: the weight has the block and so have the packed rows.
        let sums = unsafe { block_sums::<T, LOW>(weight, at, tokens, block) };
        for t in 0..T {
            // SAFETY: the packed rows have the block.
            let half_step = unsafe { *tokens[t].1.add(block / 4 * LANES + 4 * (block % 4)) };
            let part = &mut parts[t][block % PARTS];
            for (part, (sum, scale)) in part.iter_mut().zip(sums[t].iter().zip(scales)) {
                *part = (*sum as f32).mul_add(scale.to_f32() * half_step, *part);
            }
        }
    }
    parts.map(|[p0, p1, p2, p3]| std::array::from_fn(|lane| (p0[lane] + p2[lane]) + (p1[lane] + p3[lane])))
}

/// Exact sums of the panel's rows with each token: block `at` of the weight with block `block` of the tokens.
///
/// # Safety
/// NEON; the weight has the block, and low bits if `LOW`, and so have the packed rows.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn block_sums<const T: usize, const LOW: bool>(
    weight: Int8View,
    at: usize,
    tokens: &[PackedRow; T],
    block: usize,
) -> [[i32; LANES]; T] {
    let values = weight.values[at * LANES * BLOCK..][..LANES * BLOCK].as_ptr();
    let mut sums = [[[vdupq_n_s32(0); 2]; QUARTERS]; T];
    let mut low = [vdupq_n_u16(0); QUARTERS];
    for dword in 0..DWORDS {
        let pair = block / 4 * PLANES * LANES + 2 * dword / 4 * LANES + 4 * (block % 4) + 2 * dword % 4;
        for quarter in 0..QUARTERS {
            // SAFETY: the caller's promise.
            let pairs = unsafe {
                let bytes = vld1q_s8(values.add((dword * LANES + quarter * WIDTH) * 4));
                if LOW {
                    if dword % (DWORDS / LOW_DWORDS) == 0 {
                        let from = at * LOW_DWORDS + dword / (DWORDS / LOW_DWORDS);
                        let from = &weight.low_bits[from * LANES + quarter * WIDTH..][..WIDTH];
                        low[quarter] = vld1q_u16(from.as_ptr().cast());
                    }
                    widen_with(bytes, &mut low[quarter])
                } else {
                    widen(bytes)
                }
            };
            for (sums, (x, _)) in sums.iter_mut().zip(tokens) {
                let [first, second] = &mut sums[quarter];
                for (odd, pairs) in pairs.into_iter().enumerate() {
                    // SAFETY: the caller's promise.
                    let x = vreinterpretq_s16_s32(vdupq_n_s32(unsafe { *x.add(pair + odd) }));
                    *first = vmlal_s16(*first, vget_low_s16(pairs), vget_low_s16(x));
                    *second = vmlal_high_s16(*second, pairs, x);
                }
            }
        }
    }
    let mut out = [[0; LANES]; T];
    for (out, sums) in out.iter_mut().zip(sums) {
        for (out, [first, second]) in out.chunks_exact_mut(WIDTH).zip(sums) {
            // SAFETY: four values are a register long.
            unsafe { vst1q_s32(out.as_mut_ptr(), vpaddq_s32(first, second)) };
        }
    }
    out
}
