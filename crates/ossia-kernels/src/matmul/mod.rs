//! Products of activations with weight matrices: `out[r][t] = sum_k weight[r][k] * x[t][k]`.
//!
//! The law of every path: one fixed order of the sum over `k`, whatever the number of tokens, rows per
//! call or threads. A token's bits then depend on that token alone.

mod portable;

use std::ops::Range;

use half::bf16;

use crate::ComputeType;
use crate::weight::MatrixView;

/// Activations in the form that a path reads.
pub(crate) struct PackedActivations {
    num_tokens: usize,
    cols: usize,
    values: Vec<f32>,
}

impl PackedActivations {
    /// Packs the rows of `x` (`[_, cols]`) that `rows` names.
    pub(crate) fn pack(
        compute: ComputeType,
        x: &[f32],
        cols: usize,
        rows: impl ExactSizeIterator<Item = usize>,
    ) -> Self {
        let num_tokens = rows.len();
        let mut values = Vec::with_capacity(num_tokens * cols);
        for row in rows {
            let row = &x[row * cols..(row + 1) * cols];
            match compute {
                ComputeType::F32 => values.extend_from_slice(row),
                ComputeType::Bf16 => values.extend(row.iter().map(|&v| bf16::from_f32(v).to_f32())),
            }
        }
        Self {
            num_tokens,
            cols,
            values,
        }
    }
}

/// Products of weight rows `rows` with all packed tokens into `out`, `[rows.len(), num_tokens]`.
pub(crate) fn multiply(
    weight: MatrixView<'_>,
    rows: Range<usize>,
    x: &PackedActivations,
    out: &mut [f32],
) {
    portable::multiply(weight, rows, x, out);
}
