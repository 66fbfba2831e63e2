//! A few tokens: each weight is read once, as it lies in memory, and decoded in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{BLOCK, GROUP, Int16Rows, LANES, Mxfp4Rows, PLANES};

/// Rows at a time: their block sums, four lanes each, are added up together.
const ROWS: usize = 4;
/// Bytes of a block's codes.
const CODES: usize = BLOCK / 2;
/// How far ahead of the bytes being decoded memory is asked for.
const PREFETCH: usize = 4096;

/// As [`super::multiply`], for up to four tokens.
///
/// # Safety
/// As [`super::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.num_tokens() {
            0 => {}
            1 => product::<1>(weight, rows, x, out),
            2 => product::<2>(weight, rows, x, out),
            3 => product::<3>(weight, rows, x, out),
            _ => product::<4>(weight, rows, x, out),
        }
    }
}

/// # Safety
/// As [`multiply`]; `x` has `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn product<const T: usize>(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    let width = rows.len();
    for first in (0..width).step_by(ROWS) {
        // Past the last row the last one is taken again; its sums are dropped.
        let row_of = |r: usize| rows.start + (first + r).min(width - 1);
        // SAFETY: the caller's promise; rows are in range.
        let sums = unsafe { four_rows::<T>(weight, std::array::from_fn(row_of), x) };
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn four_rows<const T: usize>(
    weight: Mxfp4Rows,
    rows: [usize; ROWS],
    x: &Int16Rows,
) -> [[f32; ROWS]; T] {
    let codes = rows.map(|row| weight.blocks[row * weight.num_blocks * CODES..].as_ptr());
    let scales = rows.map(|row| &weight.scales[row * weight.num_blocks..][..weight.num_blocks]);
    let pairs: [*const i32; T] = std::array::from_fn(|t| x.pairs(t));
    let half_steps: [*const f32; T] = std::array::from_fn(|t| x.half_steps(t));
    let mut sums = [_mm512_setzero_ps(); T];
    let whole = weight.num_blocks / 4;
    for group in 0..whole {
        // SAFETY: a whole group has 64 bytes of codes and four scales in each row; packed rows have all groups.
        unsafe {
            let codes = codes.map(|codes| {
                let at = codes.add(group * GROUP / 2);
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH).cast());
                _mm512_loadu_si512(at.cast())
            });
            let scales = scales.map(|scales| scales.as_ptr().add(4 * group).cast::<i32>().read_unaligned());
            let scales = decode_scales(scales);
            for t in 0..T {
                let block_sums = block_sums(codes, pairs[t].add(group * PLANES * LANES));
                let scale = _mm512_mul_ps(scales, _mm512_loadu_ps(half_steps[t].add(group * LANES)));
                sums[t] = _mm512_fmadd_ps(block_sums, scale, sums[t]);
            }
        }
    }
    let rest = weight.num_blocks % 4;
    if rest > 0 {
        let mask = (1u64 << (rest * CODES)) - 1;
        // SAFETY: the mask keeps to the blocks that are there; packed rows have all groups.
        unsafe {
            let codes = codes.map(|codes| _mm512_maskz_loadu_epi8(mask, codes.add(whole * GROUP / 2).cast()));
            let scales = decode_scales(scales.map(|scales| tail_scales(&scales[4 * whole..])));
            for t in 0..T {
                let block_sums = block_sums(codes, pairs[t].add(whole * PLANES * LANES));
                let scale = _mm512_mul_ps(scales, _mm512_loadu_ps(half_steps[t].add(whole * LANES)));
                sums[t] = _mm512_fmadd_ps(block_sums, scale, sums[t]);
            }
        }
    }
    sums.map(|sums| merge(sums))
}

/// Scales of fewer than four blocks; those that are not there are 1.
fn tail_scales(scales: &[u8]) -> i32 {
    let mut bytes = [127; 4];
    bytes[..scales.len()].copy_from_slice(scales);
    i32::from_le_bytes(bytes)
}

/// The sums of four blocks of each of four rows with one token, as f32: block by block, row by row.
///
/// # Safety
/// AVX-512 VNNI; `pairs` has a group.
#[inline(always)]
unsafe fn block_sums(codes: [__m512i; ROWS], pairs: *const i32) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let halves = _mm512_loadu_si512(WEIGHTS.as_ptr().cast());
        let x: [__m512i; PLANES] = std::array::from_fn(|s| _mm512_loadu_si512(pairs.add(s * LANES).cast()));
        let rows = codes.map(|codes| {
            // The look-up takes the low five bits of each 16, and the table does not mind the fifth.
            let weights = [
                _mm512_permutexvar_epi16(codes, halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(codes), halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(codes), halves),
            ];
            let mut sum = _mm512_setzero_si512();
            for (w, x) in weights.iter().zip(&x) {
                sum = _mm512_dpwssd_epi32(sum, *w, *x);
            }
            sum
        });
        _mm512_cvtepi32_ps(add_lanes(rows))
    }
}

/// MXFP4 values in halves by code, twice.
pub(super) static WEIGHTS: [i16; 32] = {
    let once = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    let mut twice = [0; 32];
    let mut at = 0;
    while at < 32 {
        twice[at] = once[at % 16];
        at += 1;
    }
    twice
};

/// Adds up the four lanes of each quarter of four registers: quarter by quarter, register by register.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn add_lanes(rows: [__m512i; ROWS]) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b, c, d] = rows;
        let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
    }
}

/// The scales of four blocks (the bytes of an integer) of each of four rows: block by block, row by row.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn decode_scales(scales: [i32; ROWS]) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let rows = _mm_set_epi32(scales[3], scales[2], scales[1], scales[0]);
        let transpose = _mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
        exp2_of_e8m0(_mm512_cvtepu8_epi32(_mm_shuffle_epi8(rows, transpose)))
    }
}

/// `2^(e - 127)` of e8m0 numbers in 32-bit lanes; 255 is NaN, 0 the subnormal 2^-127.
///
/// # Safety
/// AVX-512.
#[inline(always)]
pub(super) unsafe fn exp2_of_e8m0(e: __m512i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe {
        let bits = _mm512_slli_epi32::<23>(e);
        let bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(e, e), _mm512_set1_epi32(1 << 22));
        let is_nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
        _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, is_nan, _mm512_set1_epi32(0x7FC0_0000)))
    }
}

/// `(p[0] + p[2]) + (p[1] + p[3])` of the quarters of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn merge(sums: __m512) -> [f32; ROWS] {
    let p02 = _mm_add_ps(_mm512_castps512_ps128(sums), _mm512_extractf32x4_ps::<2>(sums));
    let p13 = _mm_add_ps(_mm512_extractf32x4_ps::<1>(sums), _mm512_extractf32x4_ps::<3>(sums));
    let mut out = [0f32; ROWS];
    // SAFETY: four values of 32 bits.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), _mm_add_ps(p02, p13)) };
    out
}
