//! A few tokens with weights of 8 or 10 bits, which lie as the registers want them: 16 rows of a panel, one per lane.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::activations::{PackedRow, passes};
use super::super::int8_panel::{BYTES, LOW_DWORDS, Source};
use super::super::{BLOCK, Int16Rows, LANES, PLANES};
use super::add_products;
use crate::weight::Int8View;

/// Dwords of a row's block, two pairs each.
const DWORDS: usize = BLOCK / 4;
/// Partial sums of a row, by block.
const PARTS: usize = 4;
/// Most tokens at a time.
const TOKENS: usize = 8;
/// How far ahead of the bytes being multiplied memory is asked for.
const PREFETCH: usize = 4096;

/// As [`super::super::multiply`], up to [`TOKENS`] tokens at a time; `rows` start with a panel.
///
/// # Safety
/// As [`super::super::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    for tokens in passes(x.num_tokens(), TOKENS) {
        let out = &mut out[tokens.start * rows.len()..tokens.end * rows.len()];
        // SAFETY: the caller's promise.
        unsafe {
            match tokens.len() {
                1 => product::<1, 1>(weight, rows.clone(), x, tokens.start, out),
                2 => product::<2, 1>(weight, rows.clone(), x, tokens.start, out),
                3 => product::<3, 1>(weight, rows.clone(), x, tokens.start, out),
                4 => product::<4, 2>(weight, rows.clone(), x, tokens.start, out),
                5 => product::<5, 2>(weight, rows.clone(), x, tokens.start, out),
                6 => product::<6, 2>(weight, rows.clone(), x, tokens.start, out),
                7 => product::<7, 2>(weight, rows.clone(), x, tokens.start, out),
                _ => product::<TOKENS, 2>(weight, rows.clone(), x, tokens.start, out),
            }
        }
    }
}

/// `W` panels at a time, which share each broadcast pair of a token.
///
/// # Safety
/// As [`multiply`]; `x` has `T` tokens from `first_token`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn product<const T: usize, const W: usize>(
    weight: Int8View,
    rows: Range<usize>,
    x: &Int16Rows,
    first_token: usize,
    out: &mut [f32],
) {
    let width = rows.len();
    let tokens = std::array::from_fn(|t| x.row(first_token + t));
    for first in (0..width).step_by(W * LANES) {
        let panel = (rows.start + first) / LANES;
        let last = (rows.end - 1) / LANES;
        // Past the last panel it is taken again; its sums are dropped.
        let panels = std::array::from_fn(|w| (panel + w).min(last));
        // SAFETY: the caller's promise; the panels are in range.
        let sums = unsafe {
            match weight.low_bits.is_empty() {
                true => product_of_panels::<T, W, false>(weight, panels, &tokens),
                false => product_of_panels::<T, W, true>(weight, panels, &tokens),
            }
        };
        for (t, sums) in sums.iter().enumerate() {
            let count = (W * LANES).min(width - first);
            out[t * width + first..][..count].copy_from_slice(&sums.as_flattened()[..count]);
        }
    }
}

/// The products of the 16 rows of each panel with `T` tokens; `LOW` if the weights have low bits.
///
/// # Safety
/// As [`product`]; the panels are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn product_of_panels<const T: usize, const W: usize, const LOW: bool>(
    weight: Int8View,
    panels: [usize; W],
    tokens: &[PackedRow; T],
) -> [[[f32; LANES]; W]; T] {
    let sources = panels.map(|panel| Source::new(weight, panel));
    let mut parts = [[[_mm512_setzero_ps(); W]; T]; PARTS];
    for block in 0..weight.num_blocks {
        // SAFETY: the panels have the block and so have the packed rows.
        unsafe {
            let sums = block_sums::<T, W, LOW>(&sources, tokens, block);
            for (w, source) in sources.iter().enumerate() {
                let scales = _mm512_cvtph_ps(_mm256_loadu_si256(source.scales.add(block * LANES).cast()));
                for t in 0..T {
                    let half_step = *tokens[t].1.add(block / 4 * LANES + 4 * (block % 4));
                    let scale = _mm512_mul_ps(scales, _mm512_set1_ps(half_step));
                    let part = &mut parts[block % PARTS][t][w];
                    *part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t][w]), scale, *part);
                }
            }
        }
    }
    let mut out = [[[0f32; LANES]; W]; T];
    for (t, out) in out.iter_mut().enumerate() {
        for (w, out) in out.iter_mut().enumerate() {
            let [p0, p1, p2, p3] = parts.each_ref().map(|part| part[t][w]);
            // SAFETY: 16 values are a register long.
            unsafe {
                let sum = _mm512_add_ps(_mm512_add_ps(p0, p2), _mm512_add_ps(p1, p3));
                _mm512_storeu_ps(out.as_mut_ptr(), sum);
            }
        }
    }
    out
}

/// Exact sums of one block of the panels' rows with each token.
///
/// # Safety
/// AVX-512 VNNI; the panels and the packed rows have block `block`, and low bits if `LOW`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block_sums<const T: usize, const W: usize, const LOW: bool>(
    panels: &[Source; W],
    tokens: &[PackedRow; T],
    block: usize,
) -> [[__m512i; W]; T] {
    // Of one panel even and odd pairs apart: sums of integers may take any order, and shorter chains wait less.
    let apart = usize::from(W == 1);
    let mut sums = [[[_mm512_setzero_si512(); W]; 2]; T];
    let mut low = [_mm512_setzero_si512(); W];
    for dword in 0..DWORDS {
        let mut pairs = [[_mm512_setzero_si512(); 2]; W];
        for (w, panel) in panels.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe {
                let at = panel.values.add(block * BYTES + dword * 4 * LANES);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH));
                let bytes = _mm512_loadu_si512(at.cast());
                pairs[w] = if LOW {
                    if dword % (DWORDS / LOW_DWORDS) == 0 {
                        let at = block * LOW_DWORDS + dword / (DWORDS / LOW_DWORDS);
                        let at = panel.low_bits.add(at * LANES);
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH / 16).cast());
                        low[w] = _mm512_loadu_si512(at.cast());
                    }
                    widen_with(bytes, &mut low[w])
                } else {
                    widen(bytes)
                };
            }
        }
        let at = block / 4 * PLANES * LANES + 2 * dword / 4 * LANES + 4 * (block % 4) + 2 * dword % 4;
        for (sums, (x, _)) in sums.iter_mut().zip(tokens) {
            for odd in 0..2 {
                // SAFETY: the caller's promise.
                let x = unsafe { _mm512_set1_epi32(*x.add(at + odd)) };
                for (sum, pairs) in sums[odd * apart].iter_mut().zip(pairs) {
                    *sum = add_products(*sum, pairs[odd], x);
                }
            }
        }
    }
    let mut out = [[_mm512_setzero_si512(); W]; T];
    for (out, [even, odd]) in out.iter_mut().zip(sums) {
        for w in 0..W {
            out[w] = if apart == 1 { _mm512_add_epi32(even[w], odd[w]) } else { even[w] };
        }
    }
    out
}

/// The two pairs of each dword as 16-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn widen(bytes: __m512i) -> [__m512i; 2] {
    [_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(bytes)), _mm512_srai_epi16::<8>(bytes)]
}

/// As [`widen`], with two more bits from the lowest of `low`, which moves on to those of the next pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn widen_with(bytes: __m512i, low: &mut __m512i) -> [__m512i; 2] {
    /// Bits of the second where the third has ones, of the first elsewhere.
    const SELECT: i32 = 0xD8;
    let ones = _mm512_set1_epi16(3);
    let even = _mm512_srai_epi16::<6>(_mm512_slli_epi16::<8>(bytes));
    let even = _mm512_ternarylogic_epi32::<SELECT>(even, *low, ones);
    let next = _mm512_srli_epi16::<2>(*low);
    let odd = _mm512_ternarylogic_epi32::<SELECT>(_mm512_srai_epi16::<6>(bytes), next, ones);
    *low = _mm512_srli_epi16::<2>(next);
    [even, odd]
}
