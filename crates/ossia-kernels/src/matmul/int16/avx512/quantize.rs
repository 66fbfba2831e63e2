//! Activations to block floating point in AVX-512 registers.

use std::arch::x86_64::*;

use super::super::activations::{FRACTION_BITS, Quantized, exponent, pow2};
use super::super::{BLOCK, LANES, PAIRS};
use crate::cpu::transpose_16x16;

/// As [`Unit::quantize_tile`](super::super::Unit::quantize_tile).
///
/// # Safety
/// AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn quantize_tile(tokens: &[&[f32]], pairs: &mut [f32], half_steps: &mut [f32]) {
    let count = tokens.len();
    assert!(count <= LANES && pairs.len() == PAIRS * count && half_steps.len() == count);
    let lanes = u16::MAX >> (LANES - count);
    let mut lines = [_mm512_setzero_si512(); LANES];
    for (token, values) in tokens.iter().enumerate() {
        // SAFETY: the caller's promise; 16 pairs are a register long.
        unsafe {
            let (pairs, half_step) = quantize(values);
            lines[token] = _mm512_loadu_si512(pairs.as_ptr().cast());
            half_steps[token] = half_step;
        }
    }
    for (pair, tokens) in transpose_16x16(lines).iter().enumerate() {
        // SAFETY: the mask keeps to the tokens of the pair.
        unsafe { _mm512_mask_storeu_epi32(pairs[pair * count..].as_mut_ptr().cast(), lanes, *tokens) };
    }
}

/// Quantises up to 32 values.
///
/// # Safety
/// AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(in super::super) unsafe fn quantize(values: &[f32]) -> Quantized {
    let mask = u32::MAX.checked_shr((BLOCK - values.len()) as u32).unwrap_or(0);
    // SAFETY: the mask keeps the loads within `values`.
    let (a, b) = unsafe {
        (
            _mm512_maskz_loadu_ps(mask as u16, values.as_ptr()),
            _mm512_maskz_loadu_ps((mask >> 16) as u16, values.as_ptr().wrapping_add(16)),
        )
    };
    let (abs_a, abs_b) = (_mm512_abs_ps(a), _mm512_abs_ps(b));
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let finite =
        _mm512_cmp_ps_mask::<_CMP_LT_OQ>(abs_a, infinity) & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(abs_b, infinity);
    if finite != u16::MAX {
        return ([0; PAIRS], f32::NAN);
    }
    let exponent = exponent(_mm512_reduce_max_ps(_mm512_max_ps(abs_a, abs_b)));
    let factor = _mm512_set1_ps(pow2(FRACTION_BITS - exponent));
    // Saturates the values that round up to 2^15.
    let low = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(a, factor)));
    let high = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(b, factor)));
    let q = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    let mut pairs = [0; PAIRS];
    // SAFETY: 16 pairs are a register long.
    unsafe { _mm512_storeu_si512(pairs.as_mut_ptr().cast(), _mm512_permutexvar_epi16(pair_order(), q)) };
    (pairs, pow2(exponent - FRACTION_BITS - 1))
}

/// Which value of a block goes where, pair by pair.
#[target_feature(enable = "avx512f")]
fn pair_order() -> __m512i {
    const ORDER: [i16; BLOCK] = {
        let mut order = [0; BLOCK];
        let mut at = 0;
        while at < BLOCK {
            let (s, j, half) = (at / 8, at % 8 / 2, at % 2);
            order[at] = (8 * j + s + 4 * half) as i16;
            at += 1;
        }
        order
    };
    // SAFETY: 32 values of 16 bits fill a register.
    unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }
}
