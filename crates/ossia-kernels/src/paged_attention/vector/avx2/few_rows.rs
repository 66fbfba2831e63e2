//! A few rows with keys and values in bf16 as they lie in the cache, which are read once and never stored.

use std::arch::x86_64::*;

use super::{CHUNK_LEN, CachedValues, FEW_ROWS, KEY_STEP, KvElement, columns, widen_pairs};

/// Lanes of a register.
const LANES: usize = 8;
/// Rows whose sums of values, two registers each, leave room for what they are summed from.
const VALUE_ROWS: usize = 4;

/// As [`Operands::logits`](super::Operands::logits).
///
/// # Safety
/// AVX2 and FMA; `q` has the rows, `keys` the keys, and `head_dim` is whole registers of bf16.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn logits(
    q: *const f32,
    keys: *const half::bf16,
    stride: usize,
    head_dim: usize,
    to: &mut [[f32; CHUNK_LEN]; FEW_ROWS],
    at: usize,
) {
    for first in (0..KEY_STEP).step_by(LANES) {
        let mut sums = [_mm256_setzero_ps(); FEW_ROWS];
        for dim in (0..head_dim).step_by(2 * LANES) {
            // SAFETY: the caller's promise.
            let pairs = unsafe { columns(keys.add(first * stride + dim), stride) };
            for (pair, column) in pairs.into_iter().enumerate() {
                for (odd, keys) in widen_pairs(column).into_iter().enumerate() {
                    for (row, sum) in sums.iter_mut().enumerate() {
                        // SAFETY: the caller's promise.
                        let q = unsafe { _mm256_set1_ps(*q.add((dim + 2 * pair + odd) * FEW_ROWS + row)) };
                        *sum = _mm256_fmadd_ps(keys, q, *sum);
                    }
                }
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            // SAFETY: eight values are a register long.
            unsafe { _mm256_storeu_ps(to[at + first..][..LANES].as_mut_ptr(), sum) };
        }
    }
}

/// As [`Operands::add_values`](super::Operands::add_values).
///
/// # Safety
/// AVX2 and FMA; the cache is of bf16, `head_dim` is whole registers of it, and `sums` has the rows.
#[inline]
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn add_values<T: KvElement>(
    values: &CachedValues<T>,
    powers: &[[f32; CHUNK_LEN]; FEW_ROWS],
    shrink: &[f32; FEW_ROWS],
    sums: &mut [f32],
    len: usize,
) {
    let dims = (0..values.head_dim).step_by(2 * LANES);
    for (dim, first) in dims.flat_map(|dim| (0..FEW_ROWS).step_by(VALUE_ROWS).map(move |first| (dim, first)))
    {
        let mut added = [[_mm256_setzero_ps(); 2]; VALUE_ROWS];
        for key in values.visible.clone() {
            let from = values.of(key)[dim..][..2 * LANES].as_ptr();
            // SAFETY: 16 values of 16 bits fill a register.
            let [even, odd] = widen_pairs(unsafe { _mm256_loadu_si256(from.cast()) });
            for (added, powers) in added.iter_mut().zip(&powers[first..]) {
                let power = _mm256_set1_ps(powers[key]);
                added[0] = _mm256_fmadd_ps(even, power, added[0]);
                added[1] = _mm256_fmadd_ps(odd, power, added[1]);
            }
        }
        for (row, [even, odd]) in added.into_iter().enumerate() {
            // Pairs of each half of the registers, side by side again.
            let (low, high) = (_mm256_unpacklo_ps(even, odd), _mm256_unpackhi_ps(even, odd));
            let in_order =
                [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)];
            for (half, added) in in_order.into_iter().enumerate() {
                let to = sums[(first + row) * len + dim + half * LANES..][..LANES].as_mut_ptr();
                let shrink = _mm256_set1_ps(shrink[first + row]);
                // SAFETY: eight numbers fill a register.
                unsafe { _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_loadu_ps(to), shrink, added)) };
            }
        }
    }
}
