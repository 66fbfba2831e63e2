//! What a block of 16 rows sums up, lane by lane: `[head_dim + 2, 16]` of the values, then the largest logits, then the
//! sums of powers relative to them, which [`Sums`] has row by row.

use std::arch::x86_64::*;

use super::super::sums::Sums;
use super::{SIDE, exp2};
use crate::cpu::transpose_16x16;

/// Values of a block's sums.
pub(super) fn len(head_dim: usize) -> usize {
    (head_dim + 2) * SIDE
}

/// The sums of no key.
pub(super) fn of_nothing(sums: &mut [f32]) {
    let at = sums.len() - 2 * SIDE;
    sums.fill(0.0);
    sums[at..at + SIDE].fill(f32::MIN / 2.0);
}

/// Puts the sink of a row, which has weight but no value, into sums of no key.
pub(super) fn put_sink(sums: &mut [f32], row: usize, logit: f32) {
    let at = sums.len() - 2 * SIDE;
    sums[at + row] = logit;
    sums[at + SIDE + row] = 1.0;
}

/// Where the largest logits are, and the sums of powers.
pub(super) fn max_and_sum(sums: &mut [f32]) -> [*mut f32; 2] {
    let at = sums.len() - 2 * SIDE;
    let (max, sum) = sums[at..].split_at_mut(SIDE);
    [max.as_mut_ptr(), sum.as_mut_ptr()]
}

/// Adds values to those summed so far, which shrink first.
///
/// # Safety
/// AVX-512F; both are on a cache line.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn add_values(sums: &mut [f32], shrink: __m512, added: &[f32]) {
    for (sums, added) in sums.chunks_exact_mut(SIDE).zip(added.chunks_exact(SIDE)) {
        // SAFETY: a register each.
        unsafe {
            let sum = _mm512_fmadd_ps(_mm512_load_ps(sums.as_ptr()), shrink, _mm512_load_ps(added.as_ptr()));
            _mm512_store_ps(sums.as_mut_ptr(), sum);
        }
    }
}

/// As [`Sums::merge`].
///
/// # Safety
/// AVX-512F; both are on a cache line.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn merge(total: &mut [f32], later: &[f32]) {
    assert_eq!(total.len(), later.len());
    let at = total.len() - 2 * SIDE;
    let (total, later) = (total.as_mut_ptr(), later.as_ptr());
    // SAFETY: the condition above; lengths are whole registers.
    unsafe {
        let (max, max_later) = (_mm512_load_ps(total.add(at)), _mm512_load_ps(later.add(at)));
        let new_max = _mm512_max_ps(max, max_later);
        let shrink = exp2(_mm512_sub_ps(max, new_max));
        let shrink_later = exp2(_mm512_sub_ps(max_later, new_max));
        for at in (0..at).step_by(SIDE) {
            let add = _mm512_mul_ps(_mm512_load_ps(later.add(at)), shrink_later);
            _mm512_store_ps(total.add(at), _mm512_fmadd_ps(_mm512_load_ps(total.add(at)), shrink, add));
        }
        _mm512_store_ps(total.add(at), new_max);
        let sum = _mm512_mul_ps(_mm512_load_ps(total.add(at + SIDE)), shrink);
        let add = _mm512_mul_ps(_mm512_load_ps(later.add(at + SIDE)), shrink_later);
        _mm512_store_ps(total.add(at + SIDE), _mm512_add_ps(sum, add));
    }
}

/// The sums of blocks as the [`Sums`] of their rows.
///
/// # Safety
/// AVX-512F; sums are on cache lines.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn by_row(sums: &[f32], head_dim: usize, rows: &mut Vec<f32>) {
    let row_len = Sums::len(head_dim);
    let blocks = sums.chunks_exact(len(head_dim));
    rows.resize(blocks.len() * SIDE * row_len, 0.0);
    for (sums, rows) in blocks.zip(rows.chunks_exact_mut(SIDE * row_len)) {
        for dim in (0..head_dim).step_by(SIDE) {
            let mut columns = [_mm512_setzero_si512(); SIDE];
            for (at, column) in columns.iter_mut().enumerate() {
                // SAFETY: a register of sums.
                *column = unsafe { _mm512_load_si512(sums[(dim + at) * SIDE..][..SIDE].as_ptr().cast()) };
            }
            for (row, values) in transpose_16x16(columns).into_iter().enumerate() {
                // SAFETY: room for a register.
                unsafe {
                    _mm512_storeu_si512(rows[row * row_len + dim..][..SIDE].as_mut_ptr().cast(), values)
                };
            }
        }
        for (row, rows) in rows.chunks_exact_mut(row_len).enumerate() {
            let [max, sum] = Sums::max_and_sum(rows);
            (*max, *sum) = (sums[head_dim * SIDE + row], sums[(head_dim + 1) * SIDE + row]);
        }
    }
}
