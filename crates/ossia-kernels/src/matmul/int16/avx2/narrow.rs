//! A few tokens with MXFP4: each weight is read once, as it lies in memory, and decoded in registers.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::activations::{PackedRow, passes};
use super::super::{BLOCK, GROUP, Int16Rows, LANES, Mxfp4Rows, PLANES};
use super::{add_products, decode, exp2_of_e8m0, four_scales};

/// Rows at a time: their block sums, four lanes each, are added up together.
const ROWS: usize = 4;
/// How many rows ahead of those being decoded memory is asked for.
const AHEAD: usize = 4;
/// Most tokens at a time: four block sums for each, and a row's weights, are what the registers hold.
const TOKENS: usize = 4;
/// Bytes of a block's codes.
const CODES: usize = BLOCK / 2;
/// Halves of a group, two blocks each: a register of codes.
const HALVES: usize = 2;
/// Sums of four rows: `[p[0] or p[2], p[1] or p[3]][rows]`.
type Parts = [__m256; HALVES];

/// As [`super::super::multiply`], up to [`TOKENS`] tokens at a time.
///
/// # Safety
/// As [`super::super::multiply`].
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
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
#[target_feature(enable = "avx2,fma")]
unsafe fn four_rows<const T: usize>(
    weight: Mxfp4Rows,
    rows: [usize; ROWS],
    tokens: &[PackedRow; T],
) -> [[f32; ROWS]; T] {
    let codes = rows.map(|row| weight.blocks[row * weight.num_blocks * CODES..].as_ptr());
    let scales = rows.map(|row| &weight.scales[row * weight.num_blocks..][..weight.num_blocks]);
    let mut sums = [[_mm256_setzero_ps(); HALVES]; T];
    let whole = weight.num_blocks / 4;
    let ahead = AHEAD * weight.num_blocks * CODES;
    for group in 0..whole {
        // SAFETY: a whole group has 64 bytes of codes and four scales in each row.
        unsafe {
            let codes = codes.map(|codes| codes.add(group * GROUP / 2));
            let scales = scales.map(|s| s.as_ptr().add(4 * group).cast::<i32>().read_unaligned());
            codes.iter().for_each(|at| _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(ahead).cast()));
            add_group(group, codes, scales, tokens, &mut sums);
        }
    }
    let rest = weight.num_blocks % 4;
    if rest > 0 {
        let mut padded = [[0u8; GROUP / 2]; ROWS];
        for (padded, codes) in padded.iter_mut().zip(codes) {
            // SAFETY: the blocks that are there.
            let codes = unsafe { std::slice::from_raw_parts(codes.add(whole * GROUP / 2), rest * CODES) };
            padded[..rest * CODES].copy_from_slice(codes);
        }
        let scales = scales.map(|scales| i32::from_le_bytes(four_scales(&scales[4 * whole..])));
        // SAFETY: the padded rows are whole groups.
        unsafe { add_group(whole, padded.each_ref().map(|p| p.as_ptr()), scales, tokens, &mut sums) };
    }
    sums.map(|sums| merge(sums))
}

/// Adds the products of a group: `codes` and `scales` of four rows with each of the tokens.
///
/// # Safety
/// AVX2 and FMA; 64 bytes of codes are there in each row, and the packed rows have the group.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_group<const T: usize>(
    group: usize,
    codes: [*const u8; ROWS],
    scales: [i32; ROWS],
    tokens: &[PackedRow; T],
    sums: &mut [Parts; T],
) {
    let scales = decode_scales(scales);
    for half in 0..HALVES {
        let mut block_sums = [[_mm256_setzero_si256(); ROWS]; T];
        for (r, codes) in codes.iter().enumerate() {
            // SAFETY: the caller's promise.
            let weights = decode_256(unsafe { _mm256_loadu_si256(codes.add(half * 2 * CODES).cast()) });
            for (sums, (pairs, _)) in block_sums.iter_mut().zip(tokens) {
                for (s, weights) in weights.into_iter().enumerate() {
                    let at = (group * PLANES + s) * LANES + half * LANES / HALVES;
                    // SAFETY: the caller's promise.
                    let x = unsafe { _mm256_loadu_si256(pairs.add(at).cast()) };
                    sums[r] = add_products(sums[r], weights, x);
                }
                sums[r] = _mm256_srai_epi32::<8>(sums[r]);
            }
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            let half_steps =
                unsafe { _mm256_loadu_ps(tokens[t].1.add((group * HALVES + half) * LANES / HALVES)) };
            let block_sums = _mm256_cvtepi32_ps(add_lanes(block_sums[t]));
            sums[half] = _mm256_fmadd_ps(block_sums, _mm256_mul_ps(scales[half], half_steps), sums[half]);
        }
    }
}

/// 256 times the values of 64 codes, in halves: those that a shift by `s` nibbles brings to the bottom of each 16 bits, for
/// `s` from 0 to 3. Four products of two with 16 bits stay within 32.
#[inline]
#[target_feature(enable = "avx2")]
fn decode_256(codes: __m256i) -> [__m256i; PLANES] {
    let [even, odd] = decode(codes);
    let upper = _mm256_set1_epi16(-256);
    [
        _mm256_slli_epi16::<8>(even),
        _mm256_slli_epi16::<8>(odd),
        _mm256_and_si256(even, upper),
        _mm256_and_si256(odd, upper),
    ]
}

/// Adds up the four lanes of each half of four registers: half by half, register by register.
#[inline]
#[target_feature(enable = "avx2")]
fn add_lanes([a, b, c, d]: [__m256i; ROWS]) -> __m256i {
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
}

/// The scales of four blocks (the bytes of an integer) of each of four rows: two blocks a register, block by block, row by
/// row.
#[inline]
#[target_feature(enable = "avx2")]
fn decode_scales(scales: [i32; ROWS]) -> [__m256; HALVES] {
    let rows = _mm_set_epi32(scales[3], scales[2], scales[1], scales[0]);
    let transpose = _mm_set_epi8(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    let rows = _mm_shuffle_epi8(rows, transpose);
    let upper = _mm_unpackhi_epi64(rows, rows);
    [exp2_of_e8m0(_mm256_cvtepu8_epi32(rows)), exp2_of_e8m0(_mm256_cvtepu8_epi32(upper))]
}

/// `(p[0] + p[2]) + (p[1] + p[3])` of four rows.
#[inline]
#[target_feature(enable = "avx2")]
fn merge([p01, p23]: Parts) -> [f32; ROWS] {
    let sums = _mm256_add_ps(p01, p23);
    let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
    let mut out = [0f32; ROWS];
    // SAFETY: four values of 32 bits.
    unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
    out
}
