//! A few tokens with weights of 8 or 10 bits, which lie as the registers want them: 16 rows, one per lane.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{BLOCK, Int16Rows, LANES, PLANES, add_products};
use crate::weight::Int8View;

/// Dwords of a row's block, two pairs each.
const DWORDS: usize = BLOCK / 4;
/// Dwords of a row's low bits in a block.
const LOW_DWORDS: usize = 2;
/// Bytes of 16 rows of a block.
const BYTES: usize = LANES * BLOCK;
/// Partial sums of a row, by block.
const PARTS: usize = 4;
/// How far ahead of the bytes being multiplied memory is asked for.
const PREFETCH: usize = 4096;

/// As [`super::multiply`], for up to eight tokens; `rows` start with a panel.
///
/// # Safety
/// As [`super::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.num_tokens() {
            0 => {}
            1 => product::<1>(weight, rows, x, out),
            2 => product::<2>(weight, rows, x, out),
            3 => product::<3>(weight, rows, x, out),
            4 => product::<4>(weight, rows, x, out),
            5 => product::<5>(weight, rows, x, out),
            6 => product::<6>(weight, rows, x, out),
            7 => product::<7>(weight, rows, x, out),
            _ => product::<8>(weight, rows, x, out),
        }
    }
}

/// # Safety
/// As [`multiply`]; `x` has `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn product<const T: usize>(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    let width = rows.len();
    for first in (0..width).step_by(LANES) {
        // SAFETY: the caller's promise; the panel is in range.
        let sums = unsafe {
            let panel = (rows.start + first) / LANES;
            match weight.low_bits.is_empty() {
                true => product_of_panel::<T, false>(weight, panel, x),
                false => product_of_panel::<T, true>(weight, panel, x),
            }
        };
        for (t, sums) in sums.iter().enumerate() {
            let count = LANES.min(width - first);
            out[t * width + first..][..count].copy_from_slice(&sums[..count]);
        }
    }
}

/// The products of 16 rows with `T` tokens; `LOW` if the weights have low bits.
///
/// # Safety
/// As [`product`]; the panel is there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn product_of_panel<const T: usize, const LOW: bool>(
    weight: Int8View,
    panel: usize,
    x: &Int16Rows,
) -> [[f32; LANES]; T] {
    let first_block = panel * weight.num_blocks;
    let values = weight.values[first_block * BYTES..][..weight.num_blocks * BYTES].as_ptr();
    let scales = weight.double_scales[first_block * LANES..][..weight.num_blocks * LANES].as_ptr();
    let low_len = if LOW { LOW_DWORDS * LANES } else { 0 };
    let low_bits = weight.low_bits[first_block * low_len..][..weight.num_blocks * low_len].as_ptr();
    let tokens: [(*const i32, *const f32); T] = std::array::from_fn(|t| x.row(t));
    let mut parts = [[_mm512_setzero_ps(); PARTS]; T];
    for block in 0..weight.num_blocks {
        // SAFETY: the panel has the block and so have the packed rows.
        unsafe {
            let (values, low_bits) = (values.add(block * BYTES), low_bits.add(block * low_len));
            let sums = block_sums::<T, LOW>(values, low_bits, &tokens, block);
            let scales = _mm256_loadu_si256(scales.add(block * LANES).cast());
            let scales = _mm512_cvtph_ps(scales);
            for t in 0..T {
                let half_step = *tokens[t].1.add(block / 4 * LANES + 4 * (block % 4));
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(half_step));
                let part = &mut parts[t][block % PARTS];
                *part = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t]), scale, *part);
            }
        }
    }
    let mut out = [[0f32; LANES]; T];
    for (out, [p0, p1, p2, p3]) in out.iter_mut().zip(parts) {
        let sum = _mm512_add_ps(_mm512_add_ps(p0, p2), _mm512_add_ps(p1, p3));
        // SAFETY: 16 values are a register long.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
    out
}

/// Exact sums of one block of 16 rows with each token.
///
/// # Safety
/// AVX-512 VNNI; `values` and `low_bits` (if `LOW`) have the block, the packed rows have block `block`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block_sums<const T: usize, const LOW: bool>(
    values: *const i8,
    low_bits: *const u32,
    tokens: &[(*const i32, *const f32); T],
    block: usize,
) -> [__m512i; T] {
    // Even and odd pairs apart: sums of integers may take any order, and shorter chains wait less.
    let mut sums = [[_mm512_setzero_si512(); 2]; T];
    let mut low = _mm512_setzero_si512();
    for dword in 0..DWORDS {
        // SAFETY: the caller's promise.
        unsafe {
            let at = values.add(dword * 4 * LANES);
            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH));
            let bytes = _mm512_loadu_si512(at.cast());
            let [even, odd] = if LOW {
                if dword % (DWORDS / LOW_DWORDS) == 0 {
                    let at = low_bits.add(dword / (DWORDS / LOW_DWORDS) * LANES);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH / 16).cast());
                    low = _mm512_loadu_si512(at.cast());
                }
                widen_with(bytes, &mut low)
            } else {
                widen(bytes)
            };
            let pair = 2 * dword;
            let at = block / 4 * PLANES * LANES + pair / 4 * LANES + 4 * (block % 4) + pair % 4;
            for (sums, (pairs, _)) in sums.iter_mut().zip(tokens) {
                sums[0] = add_products(sums[0], even, _mm512_set1_epi32(*pairs.add(at)));
                sums[1] = add_products(sums[1], odd, _mm512_set1_epi32(*pairs.add(at + 1)));
            }
        }
    }
    let mut out = [_mm512_setzero_si512(); T];
    for (out, [even, odd]) in out.iter_mut().zip(sums) {
        *out = _mm512_add_epi32(even, odd);
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
