//! [`Vector`] on x86-64: AVX2 with FMA, and AVX-512.

use std::arch::x86_64::*;

use super::Vector;

/// AVX2 and FMA: 8 lanes of __m256.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(__m256);

impl Vector for Avx2 {
    const LANES: usize = 8;
    const MAX_VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe {
            let n = _mm256_cvtps_epi32(self.0);
            let bits = _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23);
            Self(_mm256_castsi256_ps(bits))
        }
    }

    #[inline(always)]
    unsafe fn where_ge(self, left: Self, right: Self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe {
            let mask = _mm256_cmp_ps(left.0, right.0, _CMP_GE_OQ);
            Self(_mm256_blendv_ps(other.0, self.0, mask))
        }
    }
}

/// AVX-512F: 16 lanes of __m512.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512(__m512);

impl Vector for Avx512 {
    const LANES: usize = 16;
    const MAX_VECTORS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn pow2(self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_scalef_ps(_mm512_set1_ps(1.0), self.0)) }
    }

    #[inline(always)]
    unsafe fn where_ge(self, left: Self, right: Self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe {
            let mask = _mm512_cmp_ps_mask(left.0, right.0, _CMP_GE_OQ);
            Self(_mm512_mask_blend_ps(mask, other.0, self.0))
        }
    }
}
