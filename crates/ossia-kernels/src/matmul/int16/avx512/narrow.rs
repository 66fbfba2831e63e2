//! A few tokens: each weight is read once, as it lies in memory, and decoded in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::activations::{PackedRow, passes};
use super::super::{BLOCK, GROUP, Int16Rows, LANES, Mxfp4Rows, PLANES};
use super::add_products;

/// Rows at a time: their block sums, four lanes each, are added up together.
const ROWS: usize = 4;
/// How many rows ahead of those being decoded memory is asked for.
const AHEAD: usize = 16;
/// Most tokens at a time: four block sums for each, and a row's weights, are what the registers hold.
const TOKENS: usize = 5;
/// Bytes of a block's codes.
const CODES: usize = BLOCK / 2;

/// As [`super::super::multiply`], up to [`TOKENS`] tokens at a time.
///
/// # Safety
/// As [`super::super::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    for tokens in passes(x.num_tokens(), TOKENS) {
        let out = &mut out[tokens.start * rows.len()..tokens.end * rows.len()];
        // SAFETY: the caller's promise.
        unsafe {
            match tokens.len() {
                1 => product::<1>(weight, rows.clone(), x, tokens.start, out),
                2 => product::<2>(weight, rows.clone(), x, tokens.start, out),
                3 => product::<3>(weight, rows.clone(), x, tokens.start, out),
                4 => product::<4>(weight, rows.clone(), x, tokens.start, out),
                _ => product::<TOKENS>(weight, rows.clone(), x, tokens.start, out),
            }
        }
    }
}

/// # Safety
/// As [`multiply`]; `x` has `T` tokens from `first_token`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn four_rows<const T: usize>(
    weight: Mxfp4Rows,
    rows: [usize; ROWS],
    tokens: &[PackedRow; T],
) -> [[f32; ROWS]; T] {
    let codes = rows.map(|row| weight.blocks[row * weight.num_blocks * CODES..].as_ptr());
    let scales = rows.map(|row| &weight.scales[row * weight.num_blocks..][..weight.num_blocks]);
    let mut sums = [_mm512_setzero_ps(); T];
    let whole = weight.num_blocks / 4;
    let ahead = AHEAD * weight.num_blocks * CODES;
    for group in 0..whole {
        let mut lines = [_mm512_setzero_si512(); ROWS];
        let mut bytes = [0; ROWS];
        // SAFETY: a whole group has 64 bytes of codes and four scales in each row.
        unsafe {
            for r in 0..ROWS {
                let at = codes[r].add(group * GROUP / 2);
                _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(ahead).cast());
                lines[r] = _mm512_loadu_si512(at.cast());
                bytes[r] = scales[r].as_ptr().add(4 * group).cast::<i32>().read_unaligned();
            }
            add_group(group, lines, bytes, tokens, &mut sums);
        }
    }
    let rest = weight.num_blocks % 4;
    if rest > 0 {
        let mask = (1u64 << (rest * CODES)) - 1;
        let mut lines = [_mm512_setzero_si512(); ROWS];
        // SAFETY: the mask keeps to the blocks that are there.
        unsafe {
            for r in 0..ROWS {
                lines[r] = _mm512_maskz_loadu_epi8(mask, codes[r].add(whole * GROUP / 2).cast());
            }
            let mut bytes = [0; ROWS];
            for (bytes, scales) in bytes.iter_mut().zip(scales) {
                *bytes = tail_scales(&scales[4 * whole..]);
            }
            add_group(whole, lines, bytes, tokens, &mut sums);
        }
    }
    let mut out = [[0f32; ROWS]; T];
    for (out, sums) in out.iter_mut().zip(sums) {
        *out = merge(sums);
    }
    out
}

/// Adds the products of a group: `lines` and `scales` of four rows with each of the tokens.
///
/// # Safety
/// AVX-512 VNNI; the packed rows have the group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_group<const T: usize>(
    group: usize,
    lines: [__m512i; ROWS],
    scales: [i32; ROWS],
    tokens: &[PackedRow; T],
    sums: &mut [__m512; T],
) {
    let scales = decode_scales(scales);
    let halves = load_weights();
    let mut block_sums = [[_mm512_setzero_si512(); ROWS]; T];
    for (r, line) in lines.into_iter().enumerate() {
        // The look-up takes the low five bits of each 16, and the table does not mind the fifth.
        let weights = [
            _mm512_permutexvar_epi16(line, halves),
            _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(line), halves),
            _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(line), halves),
            _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(line), halves),
        ];
        for (sums, (pairs, _)) in block_sums.iter_mut().zip(tokens) {
            for (s, weights) in weights.into_iter().enumerate() {
                // SAFETY: the caller's promise.
                let x = unsafe { _mm512_loadu_si512(pairs.add((group * PLANES + s) * LANES).cast()) };
                sums[r] = add_products(sums[r], weights, x);
            }
        }
    }
    for (t, sums) in sums.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        let half_steps = unsafe { _mm512_loadu_ps(tokens[t].1.add(group * LANES)) };
        let block_sums = _mm512_cvtepi32_ps(add_lanes(block_sums[t]));
        *sums = _mm512_fmadd_ps(block_sums, _mm512_mul_ps(scales, half_steps), *sums);
    }
}

/// Scales of fewer than four blocks; those that are not there are 1. Copied byte by byte they would wait for each other on
/// their way through memory, once for every row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn tail_scales(scales: &[u8]) -> i32 {
    let mask = (1u16 << scales.len().min(4)) - 1;
    // SAFETY: the mask keeps to the scales that are there.
    _mm_cvtsi128_si32(unsafe { _mm_mask_loadu_epi8(_mm_set1_epi8(127), mask, scales.as_ptr().cast()) })
}

/// MXFP4 values in halves by code, twice.
static WEIGHTS: [i16; 32] = {
    let once = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    let mut twice = [0; 32];
    let mut at = 0;
    while at < 32 {
        twice[at] = once[at % 16];
        at += 1;
    }
    twice
};

/// [`WEIGHTS`] in a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load_weights() -> __m512i {
    // SAFETY: 32 values of 16 bits fill a register.
    unsafe { _mm512_loadu_si512(WEIGHTS.as_ptr().cast()) }
}

/// Adds up the four lanes of each quarter of four registers: quarter by quarter, register by register.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_lanes([a, b, c, d]: [__m512i; ROWS]) -> __m512i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// The scales of four blocks (the bytes of an integer) of each of four rows: block by block, row by row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn decode_scales(scales: [i32; ROWS]) -> __m512 {
    let rows = _mm_set_epi32(scales[3], scales[2], scales[1], scales[0]);
    let transpose = _mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    exp2_of_e8m0(_mm512_cvtepu8_epi32(_mm_shuffle_epi8(rows, transpose)))
}

/// `2^(e - 127)` of e8m0 numbers in 32-bit lanes; 255 is NaN, 0 the subnormal 2^-127.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn exp2_of_e8m0(e: __m512i) -> __m512 {
    let bits = _mm512_slli_epi32::<23>(e);
    let bits = _mm512_mask_mov_epi32(bits, _mm512_testn_epi32_mask(e, e), _mm512_set1_epi32(1 << 22));
    let is_nan = _mm512_cmpeq_epi32_mask(e, _mm512_set1_epi32(255));
    _mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, is_nan, _mm512_set1_epi32(0x7FC0_0000)))
}

/// `(p[0] + p[2]) + (p[1] + p[3])` of the quarters of a register.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn merge(sums: __m512) -> [f32; ROWS] {
    let p02 = _mm_add_ps(_mm512_castps512_ps128(sums), _mm512_extractf32x4_ps::<2>(sums));
    let p13 = _mm_add_ps(_mm512_extractf32x4_ps::<1>(sums), _mm512_extractf32x4_ps::<3>(sums));
    let mut out = [0f32; ROWS];
    // SAFETY: four values of 32 bits.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), _mm_add_ps(p02, p13)) };
    out
}
