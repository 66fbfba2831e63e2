//! [`Vector`] and [`Operands`] with AVX2 and FMA.

use std::arch::x86_64::*;

use half::bf16;

use super::super::chunk::KEY_STEP;
use super::super::cpu::{KvElement, TypedPointer};
use super::super::operands::{CachedValues, FEW_ROWS, Operands};
use super::super::{AttentionShape, CHUNK_LEN};
use super::{Portable, Vector};
use crate::cpu::transpose_8x8;

mod few_rows;

/// AVX2 and FMA: 8 lanes of __m256.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(pub(super) __m256);

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
    unsafe fn scale_by_pow2(self, power: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe {
            let n = _mm256_cvtps_epi32(power.0);
            let bits = _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23);
            Self(_mm256_mul_ps(self.0, _mm256_castsi256_ps(bits)))
        }
    }

    #[inline(always)]
    unsafe fn first(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe { _mm256_cvtss_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps(self.0, 1));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn sum_by_halves(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps(self.0, 1));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
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

impl Operands for Avx2 {
    type Vector = Self;

    #[inline(always)]
    unsafe fn transpose_keys<T: KvElement>(from: *const T, stride: usize, head_dim: usize, to: *mut f32) {
        match T::typed(from) {
            TypedPointer::Bf16(from) if head_dim.is_multiple_of(2 * Self::LANES) => {
                for dim in (0..head_dim).step_by(2 * Self::LANES) {
                    // SAFETY: the trait's condition, and the caller's: keys and places are there.
                    unsafe { transpose_pairs(from.add(dim), stride, to.add(dim * CHUNK_LEN)) };
                }
            }
            // SAFETY: the caller's promise; plain Rust runs everywhere.
            _ => unsafe { Portable::transpose_keys(from, stride, head_dim, to) },
        }
    }

    #[inline(always)]
    fn reads_cache<T: KvElement>(shape: AttentionShape) -> bool {
        matches!(T::typed(std::ptr::null()), TypedPointer::Bf16(_))
            && shape.head_dim.is_multiple_of(2 * Self::LANES)
            && shape.block_size.is_multiple_of(KEY_STEP)
    }

    #[inline(always)]
    unsafe fn logits<T: KvElement>(
        q: *const f32,
        keys: *const T,
        stride: usize,
        head_dim: usize,
        to: &mut [[f32; CHUNK_LEN]; FEW_ROWS],
        at: usize,
    ) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { few_rows::logits(q, keys.cast(), stride, head_dim, to, at) }
    }

    #[inline(always)]
    unsafe fn add_values<T: KvElement>(
        values: &CachedValues<T>,
        powers: &[[f32; CHUNK_LEN]; FEW_ROWS],
        shrink: &[f32; FEW_ROWS],
        sums: &mut [f32],
        len: usize,
    ) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { few_rows::add_values(values, powers, shrink, sums, len) }
    }
}

/// Widens 16 keys of 16 values, `stride` from each other, to 16 rows of `CHUNK_LEN`, of which the first 16 places are
/// written: pairs of values change places first, as they lie in a key, then they part.
///
/// # Safety
/// AVX2; keys and places are there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose_pairs(from: *const bf16, stride: usize, to: *mut f32) {
    for first in (0..KEY_STEP).step_by(Avx2::LANES) {
        // SAFETY: the caller's promise.
        unsafe {
            let pairs = columns(from.add(first * stride), stride);
            for (pair, column) in pairs.into_iter().enumerate() {
                for (odd, values) in widen_pairs(column).into_iter().enumerate() {
                    _mm256_storeu_ps(to.add((2 * pair + odd) * CHUNK_LEN + first), values);
                }
            }
        }
    }
}

/// Pair by pair, those of eight keys of 16 values, `stride` from each other.
///
/// # Safety
/// AVX2; the keys are there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn columns(keys: *const bf16, stride: usize) -> [__m256i; Avx2::LANES] {
    let mut some = [_mm256_setzero_si256(); Avx2::LANES];
    for (key, some) in some.iter_mut().enumerate() {
        // SAFETY: 16 values of 16 bits fill a register.
        *some = unsafe { _mm256_loadu_si256(keys.add(key * stride).cast()) };
    }
    transpose_8x8(some)
}

/// The first values of eight pairs of bf16, and the second ones.
#[inline]
#[target_feature(enable = "avx2")]
fn widen_pairs(pairs: __m256i) -> [__m256; 2] {
    let odd = _mm256_and_si256(pairs, _mm256_set1_epi32(0xFFFF_0000_u32 as i32));
    [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(odd)]
}
