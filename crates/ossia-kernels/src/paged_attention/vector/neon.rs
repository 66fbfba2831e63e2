//! [`Vector`] and [`Operands`] with NEON, which every aarch64 processor has.

use std::arch::aarch64::*;

use half::bf16;

use super::super::chunk::KEY_STEP;
use super::super::cpu::{KvElement, TypedPointer};
use super::super::operands::{CachedValues, FEW_ROWS, Operands};
use super::super::{AttentionShape, CHUNK_LEN};
use super::{Portable, Vector};

mod few_rows;

/// 8 lanes in two registers of four: the lanes, and so the bits, of AVX2.
#[derive(Clone, Copy)]
pub(in super::super) struct Neon(float32x4_t, float32x4_t);

/// Values of bf16 that fill a register.
const NARROW_LANES: usize = 8;

impl Vector for Neon {
    const LANES: usize = 8;
    const MAX_VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: every aarch64 processor has the instruction.
        unsafe { Self(vdupq_n_f32(x), vdupq_n_f32(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: as above; the caller has eight values there.
        unsafe { Self(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: as above; the caller has room for eight values.
        unsafe {
            vst1q_f32(to, self.0);
            vst1q_f32(to.add(4), self.1);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: every aarch64 processor has the instruction.
        unsafe { Self(vaddq_f32(self.0, other.0), vaddq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(vsubq_f32(self.0, other.0), vsubq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(vmaxq_f32(self.0, other.0), vmaxq_f32(self.1, other.1)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(vfmaq_f32(addend.0, self.0, factor.0), vfmaq_f32(addend.1, self.1, factor.1)) }
    }

    #[inline(always)]
    unsafe fn scale_by_pow2(self, power: Self) -> Self {
        // SAFETY: as above.
        unsafe { Self(scale_by_pow2(self.0, power.0), scale_by_pow2(self.1, power.1)) }
    }

    #[inline(always)]
    unsafe fn first(self) -> f32 {
        // SAFETY: as above.
        unsafe { vgetq_lane_f32::<0>(self.0) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: as above.
        unsafe { vmaxvq_f32(vmaxq_f32(self.0, self.1)) }
    }

    #[inline(always)]
    unsafe fn sum_by_halves(self) -> f32 {
        // SAFETY: as above.
        unsafe {
            let four = vaddq_f32(self.0, self.1);
            vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
        }
    }

    #[inline(always)]
    unsafe fn where_ge(self, left: Self, right: Self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            Self(
                vbslq_f32(vcgeq_f32(left.0, right.0), self.0, other.0),
                vbslq_f32(vcgeq_f32(left.1, right.1), self.1, other.1),
            )
        }
    }
}

#[inline(always)]
unsafe fn scale_by_pow2(x: float32x4_t, power: float32x4_t) -> float32x4_t {
    // SAFETY: every aarch64 processor has the instructions.
    unsafe {
        let exponent = vaddq_s32(vcvtnq_s32_f32(power), vdupq_n_s32(127));
        vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
    }
}

impl Operands for Neon {
    type Vector = Self;

    #[inline(always)]
    unsafe fn transpose_keys<T: KvElement>(from: *const T, stride: usize, head_dim: usize, to: *mut f32) {
        match T::typed(from) {
            TypedPointer::Bf16(from) if head_dim.is_multiple_of(NARROW_LANES) => {
                for dim in (0..head_dim).step_by(NARROW_LANES) {
                    // SAFETY: the caller's promise: keys and places are there.
                    unsafe { transpose_pairs(from.add(dim), stride, to.add(dim * CHUNK_LEN)) };
                }
            }
            TypedPointer::F32(from) if head_dim.is_multiple_of(4) => {
                for dim in (0..head_dim).step_by(4) {
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
            && shape.head_dim.is_multiple_of(2 * NARROW_LANES)
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
        // SAFETY: the caller's promise.
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
        // SAFETY: the caller's promise.
        unsafe { few_rows::add_values(values, powers, shrink, sums, len) }
    }
}

/// Widens 16 keys of eight values, `stride` from each other, to eight rows of `CHUNK_LEN`, of which the first 16 places are
/// written.
///
/// # Safety
/// Keys and places are there.
#[inline(always)]
unsafe fn transpose_pairs(from: *const bf16, stride: usize, to: *mut f32) {
    for first in (0..KEY_STEP).step_by(4) {
        // SAFETY: the caller's promise.
        unsafe {
            for (pair, column) in columns(from.add(first * stride), stride).into_iter().enumerate() {
                let to = to.add(2 * pair * CHUNK_LEN + first);
                vst1q_f32(to, low_halves(column));
                vst1q_f32(to.add(CHUNK_LEN), high_halves(column));
            }
        }
    }
}

/// The same of four values of f32.
///
/// # Safety
/// As [`transpose_pairs`].
#[inline(always)]
unsafe fn transpose_values(from: *const f32, stride: usize, to: *mut f32) {
    for first in (0..KEY_STEP).step_by(4) {
        // SAFETY: the caller's promise; a value is as long as a pair.
        unsafe {
            let columns = columns(from.add(first * stride).cast(), 2 * stride);
            for (dim, column) in columns.into_iter().enumerate() {
                vst1q_f32(to.add(dim * CHUNK_LEN + first), vreinterpretq_f32_u32(column));
            }
        }
    }
}

/// Pair by pair, those of four keys of eight values, `stride` from each other.
///
/// # Safety
/// The keys are there.
#[inline(always)]
unsafe fn columns(keys: *const bf16, stride: usize) -> [uint32x4_t; 4] {
    // SAFETY: the caller's promise; eight values of 16 bits fill a register.
    unsafe {
        let a = vreinterpretq_u32_u16(vld1q_u16(keys.cast()));
        let b = vreinterpretq_u32_u16(vld1q_u16(keys.add(stride).cast()));
        let c = vreinterpretq_u32_u16(vld1q_u16(keys.add(2 * stride).cast()));
        let d = vreinterpretq_u32_u16(vld1q_u16(keys.add(3 * stride).cast()));
        let (ab_even, ab_odd) = (vtrn1q_u32(a, b), vtrn2q_u32(a, b));
        let (cd_even, cd_odd) = (vtrn1q_u32(c, d), vtrn2q_u32(c, d));
        let halves = |low: uint32x4_t, high: uint32x4_t| {
            let (low, high) = (vreinterpretq_u64_u32(low), vreinterpretq_u64_u32(high));
            (vreinterpretq_u32_u64(vtrn1q_u64(low, high)), vreinterpretq_u32_u64(vtrn2q_u64(low, high)))
        };
        let ((first, third), (second, fourth)) = (halves(ab_even, cd_even), halves(ab_odd, cd_odd));
        [first, second, third, fourth]
    }
}

/// The first values of four pairs of bf16.
#[inline(always)]
unsafe fn low_halves(pairs: uint32x4_t) -> float32x4_t {
    // SAFETY: every aarch64 processor has the instruction.
    unsafe { vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs)) }
}

/// The second ones.
#[inline(always)]
unsafe fn high_halves(pairs: uint32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe { vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xFFFF_0000))) }
}
