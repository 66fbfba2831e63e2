//! The integer products with AVX2: `vpmaddwd` and an addition, or the one instruction of AVX-VNNI, which Intel's laptops have from the
//! 12th generation on.

mod narrow;
mod narrow_int8;
mod panel;
mod quantize;
mod tile;

use std::arch::asm;
use std::arch::x86_64::*;
use std::ops::Range;

use super::activations::Quantized;
use super::wide::Tiles;
use super::{Int16Rows, Mxfp4Rows, Unit};
use crate::weight::Int8View;

/// 32-bit lanes of a register.
const WIDTH: usize = 8;

/// AVX2, FMA and F16C; AVX-VNNI beside them if `VNNI`.
pub(super) struct Avx2<const VNNI: bool>;

impl<const VNNI: bool> Unit for Avx2<VNNI> {
    const FEW_MXFP4: usize = 8;
    const FEW_INT8: usize = 6;
    const TILE: usize = 6;

    unsafe fn quantize(values: &[f32]) -> Quantized {
        // SAFETY: the trait's condition.
        unsafe { quantize::quantize(values) }
    }

    unsafe fn multiply_mxfp4(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { narrow::multiply(weight, rows, x, out) }
    }

    unsafe fn multiply_int8(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { narrow_int8::multiply::<VNNI>(weight, rows, x, out) }
    }

    unsafe fn add_tiles(tiles: Tiles, parts: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { tile::add::<VNNI>(tiles, parts) }
    }
}

/// `sum` plus the two products of each lane.
#[inline]
#[target_feature(enable = "avx2")]
fn add_products(sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    _mm256_add_epi32(sum, _mm256_madd_epi16(weights, x))
}

/// The same in one instruction if `VNNI`. (For a few tokens with MXFP4, whose codes fill the registers, that is no faster.)
///
/// # Safety
/// AVX-VNNI if `VNNI`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_products_with<const VNNI: bool>(mut sum: __m256i, weights: __m256i, x: __m256i) -> __m256i {
    if !VNNI {
        return add_products(sum, weights, x);
    }
    // SAFETY: the instruction is there, and touches nothing but the three registers.
    unsafe {
        asm!(
            "{{vex}} vpdpwssd {0}, {1}, {2}",
            inout(ymm_reg) sum, in(ymm_reg) weights, in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// The values of 64 codes of MXFP4, in halves, as bytes: of the lower nibbles and of the upper ones.
#[inline]
#[target_feature(enable = "avx2")]
fn decode(codes: __m256i) -> [__m256i; 2] {
    let once = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    let halves = _mm256_broadcastsi128_si256(once);
    let low = _mm256_set1_epi8(15);
    let upper = _mm256_srli_epi16::<4>(codes);
    [codes, upper].map(|codes| _mm256_shuffle_epi8(halves, _mm256_and_si256(codes, low)))
}

/// The lower and the upper byte of each 16 bits as 16-bit integers.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(bytes: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(bytes)), _mm256_srai_epi16::<8>(bytes)]
}

/// As [`widen`], with two more bits from the lowest of `low`, which moves on to those of the next pairs.
#[inline]
#[target_feature(enable = "avx2")]
fn widen_with(bytes: __m256i, low: &mut __m256i) -> [__m256i; 2] {
    let ones = _mm256_set1_epi16(3);
    let even = _mm256_srai_epi16::<6>(_mm256_slli_epi16::<8>(bytes));
    let even = _mm256_or_si256(even, _mm256_and_si256(*low, ones));
    let next = _mm256_srli_epi16::<2>(*low);
    let odd = _mm256_andnot_si256(ones, _mm256_srai_epi16::<6>(bytes));
    let odd = _mm256_or_si256(odd, _mm256_and_si256(next, ones));
    *low = _mm256_srli_epi16::<2>(next);
    [even, odd]
}

/// The first four of some e8m0 scales; those that are not there are 1.
#[inline]
fn four_scales(scales: &[u8]) -> [u8; 4] {
    scales
        .first_chunk()
        .copied()
        .unwrap_or_else(|| std::array::from_fn(|idx| *scales.get(idx).unwrap_or(&127)))
}

/// `2^(e - 127)` of e8m0 numbers in 32-bit lanes; 255 is NaN, 0 the subnormal 2^-127.
#[inline]
#[target_feature(enable = "avx2")]
fn exp2_of_e8m0(e: __m256i) -> __m256 {
    let half_of_smallest = _mm256_set1_epi32(1 << 22);
    let bits = _mm256_slli_epi32::<23>(e);
    // 255 gives infinity; a bit below its exponent makes it NaN.
    let is_nan = _mm256_cmpeq_epi32(bits, _mm256_set1_epi32(255 << 23));
    let bits = _mm256_max_epi32(bits, half_of_smallest);
    _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_and_si256(is_nan, half_of_smallest)))
}
