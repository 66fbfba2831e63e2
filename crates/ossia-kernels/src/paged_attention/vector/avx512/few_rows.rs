//! A few rows with keys and values in bf16 as they lie in the cache, which are read once and never stored.

use std::arch::x86_64::*;

use super::{CHUNK_LEN, CachedValues, FEW_ROWS, KEY_STEP, KvElement, columns, widen_pairs};

/// Lanes of a register.
const LANES: usize = 16;

/// As [`Operands::logits`](super::Operands::logits).
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
        // SAFETY: the caller's promise.
        for (pair, column) in unsafe { columns(keys.add(dim), stride) }.into_iter().enumerate() {
            for (odd, keys) in widen_pairs(column).into_iter().enumerate() {
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

/// As [`Operands::add_values`](super::Operands::add_values).
///
/// # Safety
/// AVX-512F; the cache is of bf16, `head_dim` is whole registers of it, and `sums` has the rows.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add_values<T: KvElement>(
    values: &CachedValues<T>,
    powers: &[[f32; CHUNK_LEN]; FEW_ROWS],
    shrink: &[f32; FEW_ROWS],
    sums: &mut [f32],
    len: usize,
) {
    for dim in (0..values.head_dim).step_by(2 * LANES) {
        let mut added = [[_mm512_setzero_ps(); 2]; FEW_ROWS];
        for key in values.visible.clone() {
            let from = values.of(key)[dim..][..2 * LANES].as_ptr();
            // SAFETY: 32 values of 16 bits fill a register.
            let [even, odd] = widen_pairs(unsafe { _mm512_loadu_si512(from.cast()) });
            for (added, powers) in added.iter_mut().zip(powers) {
                let power = _mm512_set1_ps(powers[key]);
                added[0] = _mm512_fmadd_ps(even, power, added[0]);
                added[1] = _mm512_fmadd_ps(odd, power, added[1]);
            }
        }
        add_in_order(&added, DimOrder::EvenAndOdd, shrink, &mut sums[dim..], len);
    }
}

/// Which of 32 dimensions the lanes of two registers are.
#[derive(Clone, Copy)]
pub(super) enum DimOrder {
    /// The even ones, then the odd ones.
    EvenAndOdd,
    /// Of each eight dimensions the first four, then the others.
    HalvesOfEight,
}

/// Adds 32 dimensions of each row to `sums`, which shrink first.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add_in_order(
    added: &[[__m512; 2]; FEW_ROWS],
    order: DimOrder,
    shrink: &[f32; FEW_ROWS],
    sums: &mut [f32],
    len: usize,
) {
    let mut lanes = [[0; LANES]; 2];
    for (dim, lane) in lanes.as_flattened_mut().iter_mut().enumerate() {
        let (register, at) = match order {
            DimOrder::EvenAndOdd => (dim % 2, dim / 2),
            DimOrder::HalvesOfEight => (dim / 4 % 2, dim / 8 * 4 + dim % 4),
        };
        *lane = (register * LANES + at) as i32;
    }
    for (row, [first, second]) in added.iter().enumerate() {
        for (half, lanes) in lanes.iter().enumerate() {
            let to = sums[row * len + half * LANES..][..LANES].as_mut_ptr();
            // SAFETY: 16 numbers fill a register.
            unsafe {
                let lanes = _mm512_loadu_si512(lanes.as_ptr().cast());
                let added = _mm512_permutex2var_ps(*first, lanes, *second);
                let shrink = _mm512_set1_ps(shrink[row]);
                _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), shrink, added));
            }
        }
    }
}
