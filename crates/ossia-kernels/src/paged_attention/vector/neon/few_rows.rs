//! A few rows with keys and values in bf16 as they lie in the cache, which are read once and never stored.

use std::arch::aarch64::*;

use half::bf16;

use super::{
    CHUNK_LEN, CachedValues, FEW_ROWS, KEY_STEP, KvElement, NARROW_LANES, columns, high_halves, low_halves,
};

/// Lanes of a register.
const LANES: usize = 4;
/// Rows whose sums of [`DIMS`] values leave registers for what they are summed from.
const VALUE_ROWS: usize = 4;
/// Values of a key that are summed at a time.
const DIMS: usize = 2 * NARROW_LANES;

/// As [`Operands::logits`](super::Operands::logits).
///
/// # Safety
/// `q` has the rows, `keys` the keys, and `head_dim` is whole registers of bf16.
#[inline(always)]
pub(super) unsafe fn logits(
    q: *const f32,
    keys: *const bf16,
    stride: usize,
    head_dim: usize,
    to: &mut [[f32; CHUNK_LEN]; FEW_ROWS],
    at: usize,
) {
    for first in (0..KEY_STEP).step_by(LANES) {
        // SAFETY: the caller's promise; four values are a register long.
        unsafe {
            let mut sums = [vdupq_n_f32(0.0); FEW_ROWS];
            for dim in (0..head_dim).step_by(NARROW_LANES) {
                let pairs = columns(keys.add(first * stride + dim), stride);
                for (pair, column) in pairs.into_iter().enumerate() {
                    let q = q.add((dim + 2 * pair) * FEW_ROWS);
                    add_dimension(&mut sums, low_halves(column), q);
                    add_dimension(&mut sums, high_halves(column), q.add(FEW_ROWS));
                }
            }
            for (to, sum) in to.iter_mut().zip(sums) {
                vst1q_f32(to[at + first..][..LANES].as_mut_ptr(), sum);
            }
        }
    }
}

/// Adds one dimension of four keys times that of each row.
///
/// # Safety
/// `q` has it of each row.
#[inline(always)]
unsafe fn add_dimension(sums: &mut [float32x4_t; FEW_ROWS], keys: float32x4_t, q: *const f32) {
    // SAFETY: the caller's promise.
    unsafe {
        let (low, high) = (vld1q_f32(q), vld1q_f32(q.add(LANES)));
        sums[0] = vfmaq_laneq_f32::<0>(sums[0], keys, low);
        sums[1] = vfmaq_laneq_f32::<1>(sums[1], keys, low);
        sums[2] = vfmaq_laneq_f32::<2>(sums[2], keys, low);
        sums[3] = vfmaq_laneq_f32::<3>(sums[3], keys, low);
        sums[4] = vfmaq_laneq_f32::<0>(sums[4], keys, high);
        sums[5] = vfmaq_laneq_f32::<1>(sums[5], keys, high);
        sums[6] = vfmaq_laneq_f32::<2>(sums[6], keys, high);
        sums[7] = vfmaq_laneq_f32::<3>(sums[7], keys, high);
    }
}

/// As [`Operands::add_values`](super::Operands::add_values).
///
/// # Safety
/// The cache is of bf16, `head_dim` is whole steps of [`DIMS`], and `sums` has the rows.
#[inline(always)]
pub(super) unsafe fn add_values<T: KvElement>(
    values: &CachedValues<T>,
    powers: &[[f32; CHUNK_LEN]; FEW_ROWS],
    shrink: &[f32; FEW_ROWS],
    sums: &mut [f32],
    len: usize,
) {
    for dim in (0..values.head_dim).step_by(DIMS) {
        for first in (0..FEW_ROWS).step_by(VALUE_ROWS) {
            // SAFETY: the caller's promise; what is read and written are whole registers.
            unsafe {
                let mut added = [[vdupq_n_f32(0.0); DIMS / LANES]; VALUE_ROWS];
                for key in values.visible.clone() {
                    let from: *const u16 = values.of(key)[dim..][..DIMS].as_ptr().cast();
                    let [a, b] = widen(vld1q_u16(from));
                    let [c, d] = widen(vld1q_u16(from.add(NARROW_LANES)));
                    for (added, powers) in added.iter_mut().zip(&powers[first..]) {
                        let power = powers[key];
                        added[0] = vfmaq_n_f32(added[0], a, power);
                        added[1] = vfmaq_n_f32(added[1], b, power);
                        added[2] = vfmaq_n_f32(added[2], c, power);
                        added[3] = vfmaq_n_f32(added[3], d, power);
                    }
                }
                for (row, added) in added.into_iter().enumerate() {
                    for (part, added) in added.into_iter().enumerate() {
                        let to = sums[(first + row) * len + dim + part * LANES..][..LANES].as_mut_ptr();
                        vst1q_f32(to, vfmaq_n_f32(added, vld1q_f32(to), shrink[first + row]));
                    }
                }
            }
        }
    }
}

/// Eight values of bf16 in two registers.
#[inline(always)]
unsafe fn widen(values: uint16x8_t) -> [float32x4_t; 2] {
    // SAFETY: every aarch64 processor has the instructions.
    unsafe {
        let [low, high] = [vshll_n_u16::<16>(vget_low_u16(values)), vshll_high_n_u16::<16>(values)];
        [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)]
    }
}
