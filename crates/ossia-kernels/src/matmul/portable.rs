//! Plain Rust: the path of last resort and the one to read first.

use std::ops::Range;

use super::f32_pack::F32Rows;
use crate::cpu::Scratch;
use crate::weight::MatrixView;

/// As [`super::multiply`]: each weight row is decoded once, then summed with each token.
pub(super) fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let width = rows.len();
    let mut decoded = Scratch::new(weight.cols);
    for (r, row) in rows.enumerate() {
        weight.copy_row(row, &mut decoded);
        for t in 0..x.num_tokens() {
            out[t * width + r] = dot(&decoded, x.row(t));
        }
    }
}

/// Sixteen partial sums by `k % 16`, then a halving tree: a fixed order that compilers vectorise.
/// `x` may be longer than `row`, by its padding.
fn dot(row: &[f32], x: &[f32]) -> f32 {
    let mut sums = [0f32; 16];
    for (row, x) in row.chunks(16).zip(x.chunks(16)) {
        for ((sum, w), x) in sums.iter_mut().zip(row).zip(x) {
            *sum += w * x;
        }
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            sums[i] += sums[i + half];
        }
    }
    sums[0]
}
