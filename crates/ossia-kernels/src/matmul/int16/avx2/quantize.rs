//! Activations to block floating point in AVX2 registers.

use std::arch::x86_64::*;

use super::super::activations::{FRACTION_BITS, Quantized, exponent, pow2};
use super::super::{BLOCK, PAIRS};
use super::WIDTH;

/// As [`Unit::quantize`](super::super::Unit::quantize).
///
/// # Safety
/// AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn quantize(values: &[f32]) -> Quantized {
    let mut padded = [0f32; BLOCK];
    let whole = match values.len() {
        BLOCK => values,
        len => {
            padded[..len].copy_from_slice(values);
            &padded
        }
    };
    let load = |j: usize| {
        // SAFETY: a block is four registers long.
        unsafe { _mm256_loadu_ps(whole[j * WIDTH..][..WIDTH].as_ptr()) }
    };
    let x = [load(0), load(1), load(2), load(3)];
    let magnitudes = x.map(|x| _mm256_andnot_ps(_mm256_set1_ps(-0.0), x));
    let infinity = _mm256_set1_ps(f32::INFINITY);
    let finite = magnitudes.map(|x| _mm256_cmp_ps::<_CMP_LT_OQ>(x, infinity));
    let finite = _mm256_and_ps(_mm256_and_ps(finite[0], finite[1]), _mm256_and_ps(finite[2], finite[3]));
    if _mm256_movemask_ps(finite) != 0xff {
        return ([0; PAIRS], f32::NAN);
    }
    let max = _mm256_max_ps(
        _mm256_max_ps(magnitudes[0], magnitudes[1]),
        _mm256_max_ps(magnitudes[2], magnitudes[3]),
    );
    let max = _mm_max_ps(_mm256_castps256_ps128(max), _mm256_extractf128_ps::<1>(max));
    let max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    let exponent = exponent(_mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max))));
    let factor = _mm256_set1_ps(pow2(FRACTION_BITS - exponent));
    let q = x.map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, factor)));
    // The pairs of `j` are its lower half and its upper one, `s` from 0 to 3. Packing saturates the values that round up
    // to 2^15.
    let pairs_of_two = |j: usize| {
        let packed = _mm256_packs_epi32(q[j], q[j + 1]);
        let (low, high) = (_mm256_castsi256_si128(packed), _mm256_extracti128_si256::<1>(packed));
        [_mm_unpacklo_epi16(low, high), _mm_unpackhi_epi16(low, high)]
    };
    let ([a, b], [c, d]) = (pairs_of_two(0), pairs_of_two(2));
    let (ab, cd) = (_mm_unpacklo_epi32(a, b), _mm_unpacklo_epi32(c, d));
    let (ab_high, cd_high) = (_mm_unpackhi_epi32(a, b), _mm_unpackhi_epi32(c, d));
    let by_s = [
        _mm_unpacklo_epi64(ab, cd),
        _mm_unpackhi_epi64(ab, cd),
        _mm_unpacklo_epi64(ab_high, cd_high),
        _mm_unpackhi_epi64(ab_high, cd_high),
    ];
    let mut pairs = [0; PAIRS];
    for (to, pairs) in pairs.chunks_exact_mut(4).zip(by_s) {
        // SAFETY: four pairs are a register long.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), pairs) };
    }
    (pairs, pow2(exponent - FRACTION_BITS - 1))
}
