//! A few rows with keys and values in bf16 as they lie in the cache, which are read once and never stored.

use std::arch::x86_64::*;

use super::{CHUNK_LEN, FEW_ROWS, KEY_STEP, widen_pairs};
use crate::cpu::transpose_16x16;

/// Lanes of a register.
const LANES: usize = 16;

/// As [`Vector::logits`](super::Vector::logits).
///
/// # Safety
/// AVX-512F; `q` has the rows, `keys` the keys, and `head_dim` is whole registers of bf16.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn logits(
    q: *const f32,
    keys: *const half::bf16,
    stride: usize,
    head_dim: usize,
    to: &mut [[f32; CHUNK_LEN]; FEW_ROWS],
    at: usize,
) {
    let mut sums = [_mm512_setzero_ps(); FEW_ROWS];
    for dim in (0..head_dim).step_by(2 * LANES) {
        let mut some = [_mm512_setzero_si512(); KEY_STEP];
        for (key, some) in some.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *some = unsafe { _mm512_loadu_si512(keys.add(key * stride + dim).cast()) };
        }
        for (pair, column) in transpose_16x16(some).iter().enumerate() {
            for (odd, keys) in widen_pairs(*column).into_iter().enumerate() {
                for (row, sum) in sums.iter_mut().enumerate() {
                    // SAFETY: the caller's promise.
                    let q = unsafe { _mm512_set1_ps(*q.add((dim + 2 * pair + odd) * FEW_ROWS + row)) };
                    *sum = _mm512_fmadd_ps(keys, q, *sum);
                }
            }
        }
    }
    for (to, sum) in to.iter_mut().zip(sums) {
        // SAFETY: 16 values are a register long.
        unsafe { _mm512_storeu_ps(to[at..][..KEY_STEP].as_mut_ptr(), sum) };
    }
}

/// As [`Vector::values`](super::Vector::values).
///
/// # Safety
/// AVX-512F; each of `values` points to a register of bf16, and `sums` has the rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn values<T>(
    values: impl Iterator<Item = (usize, *const T)>,
    probs: &[[f32; CHUNK_LEN]; FEW_ROWS],
    shrink: &[f32; FEW_ROWS],
    sums: *mut f32,
    len: usize,
) {
    let mut added = [[_mm512_setzero_ps(); 2]; FEW_ROWS];
    for (key, values) in values {
        // SAFETY: the caller's promise.
        let [even, odd] = widen_pairs(unsafe { _mm512_loadu_si512(values.cast()) });
        for (added, probs) in added.iter_mut().zip(probs) {
            let prob = _mm512_set1_ps(probs[key]);
            added[0] = _mm512_fmadd_ps(even, prob, added[0]);
            added[1] = _mm512_fmadd_ps(odd, prob, added[1]);
        }
    }
    let order = [0, 8].map(|first| {
        let lane = |at: usize| (first + at / 2 + LANES * (at % 2)) as i32;
        std::array::from_fn::<i32, LANES, _>(lane)
    });
    for (row, [even, odd]) in added.into_iter().enumerate() {
        for (half, order) in order.iter().enumerate() {
            // SAFETY: 16 numbers fill a register; the caller's promise for the sums.
            unsafe {
                let order = _mm512_loadu_si512(order.as_ptr().cast());
                let to = sums.add(row * len + half * LANES);
                let added = _mm512_permutex2var_ps(even, order, odd);
                let shrink = _mm512_set1_ps(shrink[row]);
                _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), shrink, added));
            }
        }
    }
}
