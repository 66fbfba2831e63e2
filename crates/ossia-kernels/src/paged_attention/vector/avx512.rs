//! [`Vector`] and [`Operands`] with AVX-512.

use std::arch::x86_64::*;

use half::bf16;

use super::super::chunk::KEY_STEP;
use super::super::cpu::{KvElement, TypedPointer};
use super::super::operands::{CachedValues, FEW_ROWS, Operands};
use super::super::{AttentionShape, CHUNK_LEN};
use super::{Avx2, Portable, Vector};
use crate::cpu::transpose_16x16;

mod bf16_pairs;
mod few_rows;

pub(in super::super) use bf16_pairs::Bf16Pairs;

/// AVX-512F: 16 lanes of __m512.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512(pub(in super::super) __m512);

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
    unsafe fn scale_by_pow2(self, power: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_scalef_ps(self.0, power.0)) }
    }

    #[inline(always)]
    unsafe fn first(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe { _mm512_cvtss_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe {
            let [low, high] = halves(self.0);
            Avx2(_mm256_max_ps(low, high)).largest()
        }
    }

    #[inline(always)]
    unsafe fn sum_by_halves(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe {
            let [low, high] = halves(self.0);
            Avx2(_mm256_add_ps(low, high)).sum_by_halves()
        }
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

impl Operands for Avx512 {
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
            TypedPointer::F32(from) if head_dim.is_multiple_of(Self::LANES) => {
                for dim in (0..head_dim).step_by(Self::LANES) {
                    // SAFETY: as above.
                    unsafe { transpose_values(from.add(dim), stride, to.add(dim * CHUNK_LEN)) };
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

/// Lower and upper eight lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(x: __m512) -> [__m256; 2] {
    let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x));
    [_mm512_castps512_ps256(x), _mm256_castpd_ps(high)]
}

/// Widens 16 keys of 32 values, `stride` from each other, to 32 rows of `CHUNK_LEN`, of which the first 16 places are
/// written: pairs of values change places first, as they lie in a key, then they part.
///
/// # Safety
/// AVX-512F; keys and places are there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_pairs(from: *const bf16, stride: usize, to: *mut f32) {
    // SAFETY: the caller's promise.
    for (pair, column) in unsafe { columns(from, stride) }.into_iter().enumerate() {
        let [even, odd] = widen_pairs(column);
        // SAFETY: the caller's promise.
        unsafe {
            _mm512_storeu_ps(to.add(2 * pair * CHUNK_LEN), even);
            _mm512_storeu_ps(to.add((2 * pair + 1) * CHUNK_LEN), odd);
        }
    }
}

/// Pair by pair, those of 16 keys of 32 values, `stride` from each other.
///
/// # Safety
/// AVX-512F; the keys are there.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn columns(keys: *const bf16, stride: usize) -> [__m512i; KEY_STEP] {
    let mut some = [_mm512_setzero_si512(); KEY_STEP];
    for (key, some) in some.iter_mut().enumerate() {
        // SAFETY: 32 values of 16 bits fill a register.
        *some = unsafe { _mm512_loadu_si512(keys.add(key * stride).cast()) };
    }
    transpose_16x16(some)
}

/// As [`transpose_pairs`], of 16 values of f32.
///
/// # Safety
/// As [`transpose_pairs`].
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_values(from: *const f32, stride: usize, to: *mut f32) {
    let mut keys = [_mm512_setzero_si512(); 16];
    for (key, values) in keys.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *values = unsafe { _mm512_loadu_si512(from.add(key * stride).cast()) };
    }
    for (dim, column) in transpose_16x16(keys).iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_si512(to.add(dim * CHUNK_LEN).cast(), *column) };
    }
}

/// The first values of 16 pairs of bf16, and the second ones.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen_pairs(pairs: __m512i) -> [__m512; 2] {
    let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(0xFFFF_0000_u32 as i32));
    [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd)]
}
