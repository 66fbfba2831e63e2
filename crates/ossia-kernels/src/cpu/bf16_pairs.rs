//! Products of pairs of bf16 in vectors: whether a processor has them, and at what speed.

use std::arch::x86_64::*;
use std::sync::OnceLock;

/// How a processor multiplies and sums pairs of bf16 in vectors (AVX-512 BF16, with VBMI beside it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bf16Pairs {
    /// Not at all.
    None,
    /// At no more than the speed of f32: Intel's (measured on Sapphire Rapids, 82 GFLOP/s beside 169).
    Slow,
    /// At twice the speed of f32: AMD's, from Zen 4 on.
    Fast,
}

/// What this processor has. Looked up once per process.
pub(crate) fn bf16_pairs() -> Bf16Pairs {
    static DETECTED: OnceLock<Bf16Pairs> = OnceLock::new();
    *DETECTED.get_or_init(|| {
        // All but Cooper Lake have both.
        let has_pairs = is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vbmi");
        let vendor = std::arch::x86_64::__cpuid(0);
        let is_amd =
            [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD";
        match (has_pairs, is_amd) {
            (false, _) => Bf16Pairs::None,
            (true, false) => Bf16Pairs::Slow,
            (true, true) => Bf16Pairs::Fast,
        }
    })
}

/// Lane by lane `sum` and the products of the pairs of `a` and `b`, the first ones first.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn dot_bf16(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
    // SAFETY: both are 64 bytes, of any value.
    unsafe {
        let [a, b] = [a, b].map(|pairs| std::mem::transmute::<__m512i, __m512bh>(pairs));
        _mm512_dpbf16_ps(sum, a, b)
    }
}

/// 16 numbers as bf16, rounded to nearest even.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
pub(crate) fn to_bf16(x: __m512) -> __m256i {
    // SAFETY: 32 bytes, of any value.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)) }
}
