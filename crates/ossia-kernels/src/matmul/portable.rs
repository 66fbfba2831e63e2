//! Plain Rust: the path of last resort and the one to read first.

use std::ops::Range;

use super::PackedActivations;
use crate::weight::MatrixView;

/// As [`super::multiply`]: each weight row is decoded once, then summed with each token in order of `k`.
pub(super) fn multiply(
    weight: MatrixView<'_>,
    rows: Range<usize>,
    x: &PackedActivations,
    out: &mut [f32],
) {
    let mut decoded = vec![0f32; weight.cols];
    for (r, row) in rows.enumerate() {
        for (col, value) in decoded.iter_mut().enumerate() {
            *value = weight.get(row, col);
        }
        for t in 0..x.num_tokens {
            let token = &x.values[t * x.cols..(t + 1) * x.cols];
            out[r * x.num_tokens + t] = dot(&decoded, token);
        }
    }
}

/// Sixteen partial sums by `k % 16`, then a halving tree: a fixed order that compilers vectorise.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}
