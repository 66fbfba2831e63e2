//! A dense matrix in 8 bits, made from a checkpoint's at load.

use std::sync::Arc;

use half::f16;

use super::Matrix;
use crate::cpu::{SharedSlice, for_each_task, num_threads};

/// Rows that lie side by side, one per 32-bit lane of a register.
pub(crate) const LANES: usize = 16;
/// Columns that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Largest magnitude of a value.
const MAX: f32 = 127.0;

/// `[rows, cols]` of `scale * q`: `q` from -127 to 127, `scale` an f16 per 32 columns of a row. Cloning shares
/// the bytes: 8.5 bits a weight.
///
/// Rows come in panels of 16 and columns in blocks of 32, padded with zeros. A block of a panel is
/// `[8, 16 rows, 4]` bytes: dword `d` of a row holds the pairs `2 * d` (bytes 0 and 2) and `2 * d + 1` (bytes 1
/// and 3), and pair `4 * s + j` holds columns `8 * j + s` and `8 * j + s + 4`, as
/// [`crate::matmul`]'s integer activations have them.
#[derive(Clone, Debug)]
pub(super) struct Int8 {
    values: Arc<Vec<i8>>,
    /// Twice the scale, `[panels, blocks, 16 rows]`: activations count in half steps.
    double_scales: Arc<Vec<f16>>,
}

/// [`Int8`], borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Int8View<'a> {
    /// `[panels, blocks, 8, 16 rows, 4]`.
    pub(crate) values: &'a [i8],
    /// `[panels, blocks, 16 rows]`.
    pub(crate) double_scales: &'a [f16],
    /// Blocks of a row.
    pub(crate) num_blocks: usize,
}

impl Int8 {
    /// Rounds a matrix to 8 bits, each block by its largest magnitude.
    pub(super) fn new(matrix: &Matrix) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let (panels, num_blocks) = (rows.div_ceil(LANES), cols.div_ceil(BLOCK));
        let mut values = vec![0i8; panels * num_blocks * LANES * BLOCK];
        let mut double_scales = vec![f16::ZERO; panels * num_blocks * LANES];
        let (shared_values, shared_scales) =
            (SharedSlice::new(&mut values), SharedSlice::new(&mut double_scales));
        for_each_task(panels, num_threads(), |panel| {
            let (value_len, scale_len) = (num_blocks * LANES * BLOCK, num_blocks * LANES);
            // SAFETY: each task has its own panel.
            let (values, scales) = unsafe {
                (
                    shared_values.range(panel * value_len..(panel + 1) * value_len),
                    shared_scales.range(panel * scale_len..(panel + 1) * scale_len),
                )
            };
            let mut row = vec![0f32; cols];
            for lane in 0..LANES.min(rows - panel * LANES) {
                matrix.copy_row_f32(panel * LANES + lane, &mut row);
                for (block, weights) in row.chunks(BLOCK).enumerate() {
                    let values = &mut values[block * LANES * BLOCK..][..LANES * BLOCK];
                    scales[block * LANES + lane] = round_block(weights, lane, values);
                }
            }
        });
        Self { values: Arc::new(values), double_scales: Arc::new(double_scales) }
    }

    pub(super) fn view(&self, cols: usize) -> Int8View<'_> {
        let num_blocks = cols.div_ceil(BLOCK);
        Int8View { values: &self.values, double_scales: &self.double_scales, num_blocks }
    }

    /// Bytes of values and scales.
    pub(super) fn len(&self) -> usize {
        self.values.len() + size_of::<f16>() * self.double_scales.len()
    }
}

impl Int8View<'_> {
    /// One weight.
    pub(crate) fn get(&self, row: usize, col: usize) -> f32 {
        let block = row / LANES * self.num_blocks + col / BLOCK;
        let q = self.values[block * LANES * BLOCK + place(row % LANES, col % BLOCK)];
        f32::from(q) * (self.double_scales[block * LANES + row % LANES].to_f32() / 2.0)
    }
}

/// Where in a block of a panel the weight of a lane and a column lies.
fn place(lane: usize, col: usize) -> usize {
    let (j, s, half) = (col / 8, col % 4, col % 8 / 4);
    let pair = 4 * s + j;
    (pair / 2 * LANES + lane) * 4 + pair % 2 + 2 * half
}

/// Rounds up to 32 weights into their places; returns twice their scale.
fn round_block(weights: &[f32], lane: usize, values: &mut [i8]) -> f16 {
    let max = weights.iter().fold(0f32, |max, w| max.max(w.abs()));
    let scale = f16::from_f32(max / MAX);
    // Adding 1.5 * 2^23 and taking it away again rounds to the nearest whole number, and compiles to two instructions.
    const MAGIC: f32 = 12_582_912.0;
    let factor = if scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    for (col, w) in weights.iter().enumerate() {
        // A NaN, which no checkpoint should hold, becomes 0 here; its block's scale does not hide an infinity.
        values[place(lane, col)] = ((w * factor).clamp(-MAX, MAX) + MAGIC - MAGIC) as i8;
    }
    f16::from_f32(2.0 * scale.to_f32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_weight_has_a_place_of_its_own() {
        let mut places: Vec<usize> =
            (0..LANES).flat_map(|lane| (0..BLOCK).map(move |col| place(lane, col))).collect();
        places.sort_unstable();
        assert_eq!(places, (0..LANES * BLOCK).collect::<Vec<_>>());
    }

    #[test]
    fn a_block_is_off_by_half_a_step_at_most() {
        let weights: Vec<f32> = (0..32).map(|i| (i as f32 * 0.37).sin() * 0.02).collect();
        let mut values = vec![0; LANES * BLOCK];
        let scale = round_block(&weights, 3, &mut values).to_f32() / 2.0;
        for (col, w) in weights.iter().enumerate() {
            let found = f32::from(values[place(3, col)]) * scale;
            assert!((found - w).abs() <= 0.51 * scale, "{col}: {found}, should be {w}");
        }
    }
}
