//! A few tokens with weights of 8 or 10 bits, which lie as the registers want them: 16 rows of a panel, one per lane of two
//! registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::activations::{PackedRow, passes};
use super::super::int8_panel::{BYTES, LOW_DWORDS, Source};
use super::super::{BLOCK, Int16Rows, LANES, PLANES};
use super::{WIDTH, add_products_with, widen, widen_with};
use crate::weight::Int8View;

/// Registers that hold a panel's rows.
const HALVES: usize = LANES / WIDTH;
/// Dwords of a row's block, two pairs each.
const DWORDS: usize = BLOCK / 4;
/// Partial sums of a row, by block.
const PARTS: usize = 4;
/// Most tokens at a time: as many sums as leave registers for what they are summed from.
const TOKENS: usize = 3;
/// How far ahead of the bytes being multiplied memory is asked for.
const PREFETCH: usize = 4096;

/// As [`super::super::multiply`], up to [`TOKENS`] tokens at a time; `rows` start with a panel.
///
/// # Safety
/// As [`super::super::multiply`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<const VNNI: bool>(
    weight: Int8View,
    rows: Range<usize>,
    x: &Int16Rows,
    out: &mut [f32],
) {
    for tokens in passes(x.num_tokens(), TOKENS) {
        let out = &mut out[tokens.start * rows.len()..tokens.end * rows.len()];
        // SAFETY: the caller's promise.
        unsafe {
            match tokens.len() {
                1 => product::<1, VNNI>(weight, rows.clone(), x, tokens.start, out),
                2 => product::<2, VNNI>(weight, rows.clone(), x, tokens.start, out),
                _ => product::<TOKENS, VNNI>(weight, rows.clone(), x, tokens.start, out),
            }
        }
    }
}

/// # Safety
/// As [`multiply`]; `x` has `T` tokens from `first_token`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn product<const T: usize, const VNNI: bool>(
    weight: Int8View,
    rows: Range<usize>,
    x: &Int16Rows,
    first_token: usize,
    out: &mut [f32],
) {
    let width = rows.len();
    let tokens = std::array::from_fn(|t| x.row(first_token + t));
    for first in (0..width).step_by(LANES) {
        let panel = Source::new(weight, (rows.start + first) / LANES);
        // SAFETY: the caller's promise; the panel is in range.
        let sums = unsafe {
            match weight.low_bits.is_empty() {
                true => product_of_panel::<T, false, VNNI>(&panel, weight.num_blocks, &tokens),
                false => product_of_panel::<T, true, VNNI>(&panel, weight.num_blocks, &tokens),
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
/// As [`product`]; the panel has the blocks.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn product_of_panel<const T: usize, const LOW: bool, const VNNI: bool>(
    panel: &Source,
    num_blocks: usize,
    tokens: &[PackedRow; T],
) -> [[f32; LANES]; T] {
    let mut parts = [[[0f32; LANES]; PARTS]; T];
    for block in 0..num_blocks {
        // SAFETY: the panel has the block and so have the packed rows; 16 scales and 16 parts are two registers long.
        unsafe {
            let sums = block_sums::<T, LOW, VNNI>(panel, tokens, block);
            for half in 0..HALVES {
                let scales = panel.scales.add(block * LANES + half * WIDTH);
                let scales = _mm256_cvtph_ps(_mm_loadu_si128(scales.cast()));
                for t in 0..T {
                    let half_step = *tokens[t].1.add(block / 4 * LANES + 4 * (block % 4));
                    let scale = _mm256_mul_ps(scales, _mm256_set1_ps(half_step));
                    let part = parts[t][block % PARTS][half * WIDTH..].as_mut_ptr();
                    let sum = _mm256_cvtepi32_ps(sums[t][half]);
                    _mm256_storeu_ps(part, _mm256_fmadd_ps(sum, scale, _mm256_loadu_ps(part)));
                }
            }
        }
    }
    parts.map(|[p0, p1, p2, p3]| std::array::from_fn(|lane| (p0[lane] + p2[lane]) + (p1[lane] + p3[lane])))
}

/// Exact sums of one block of the panel's rows with each token.
///
/// # Safety
/// AVX2; the panel and the packed rows have block `block`, and low bits if `LOW`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn block_sums<const T: usize, const LOW: bool, const VNNI: bool>(
    panel: &Source,
    tokens: &[PackedRow; T],
    block: usize,
) -> [[__m256i; HALVES]; T] {
    let mut sums = [[_mm256_setzero_si256(); HALVES]; T];
    let mut low = [_mm256_setzero_si256(); HALVES];
    for dword in 0..DWORDS {
        let at = block / 4 * PLANES * LANES + 2 * dword / 4 * LANES + 4 * (block % 4) + 2 * dword % 4;
        for half in 0..HALVES {
            // SAFETY: the caller's promise.
            let pairs = unsafe {
                let at = panel.values.add(block * BYTES + (dword * LANES + half * WIDTH) * 4);
                if half == 0 {
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH));
                }
                let bytes = _mm256_loadu_si256(at.cast());
                if LOW {
                    if dword % (DWORDS / LOW_DWORDS) == 0 {
                        let at = block * LOW_DWORDS + dword / (DWORDS / LOW_DWORDS);
                        let at = panel.low_bits.add(at * LANES + half * WIDTH);
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH / 16).cast());
                        low[half] = _mm256_loadu_si256(at.cast());
                    }
                    widen_with(bytes, &mut low[half])
                } else {
                    widen(bytes)
                }
            };
            for (sums, (x, _)) in sums.iter_mut().zip(tokens) {
                for (odd, pairs) in pairs.into_iter().enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let x = _mm256_set1_epi32(*x.add(at + odd));
                        sums[half] = add_products_with::<VNNI>(sums[half], pairs, x);
                    }
                }
            }
        }
    }
    sums
}
