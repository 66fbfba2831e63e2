//! A dense matrix in 8 or 10 bits, made from a checkpoint's at load.

use std::sync::Arc;

use half::f16;

use super::Matrix;
use crate::cpu::{SharedSlice, ask_for_huge_pages, for_each_task, num_threads};

/// Rows that lie side by side, one per 32-bit lane of a register.
pub(crate) const LANES: usize = 16;
/// Columns that share a scale.
pub(crate) const BLOCK: usize = 32;
/// Low bits of a value of 10 bits, which lie apart.
const LOW_BITS: u32 = 2;

/// Bits of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Eight,
    Ten,
}

impl Width {
    /// Largest magnitude of a value.
    fn max(self) -> f32 {
        match self {
            Width::Eight => 127.0,
            Width::Ten => 511.0,
        }
    }
}

/// `[rows, cols]` of `scale * q`: `q` from -127 to 127 or -511 to 511, `scale` an f16 per 32 columns of a row.
/// Cloning shares the bytes: 8.5 or 10.5 bits a weight.
///
/// Rows come in panels of 16 and columns in blocks of 32, padded with zeros. A block of a panel is
/// `[8, 16 rows, 4]` bytes: dword `d` of a row holds the pairs `2 * d` (bytes 0 and 2) and `2 * d + 1` (bytes 1
/// and 3), and pair `4 * s + j` holds columns `8 * j + s` and `8 * j + s + 4`, as
/// [`crate::matmul`]'s integer activations have them. Of 10 bits the upper eight lie like that; the lower two of pair
/// `p` are the bits `2 * (p % 8)` and up of both halves of dword `p / 8`.
#[derive(Clone, Debug)]
pub(super) struct Int8 {
    values: Arc<Vec<i8>>,
    /// Twice the scale, `[panels, blocks, 16 rows]`: activations count in half steps.
    double_scales: Arc<Vec<f16>>,
    /// `[panels, blocks, 2, 16 rows]`; empty for 8 bits.
    low_bits: Arc<Vec<u32>>,
}

/// [`Int8`], borrowed.
#[derive(Clone, Copy)]
pub(crate) struct Int8View<'a> {
    /// `[panels, blocks, 8, 16 rows, 4]`.
    pub(crate) values: &'a [i8],
    /// `[panels, blocks, 16 rows]`.
    pub(crate) double_scales: &'a [f16],
    /// `[panels, blocks, 2, 16 rows]` low bits of values of 10 bits; empty for 8.
    pub(crate) low_bits: &'a [u32],
    /// Blocks of a row.
    pub(crate) num_blocks: usize,
}

impl Int8 {
    /// Rounds a matrix, each block by its largest magnitude.
    pub(super) fn new(matrix: &Matrix, width: Width) -> Self {
        let (rows, cols) = (matrix.rows(), matrix.cols());
        let (panels, num_blocks) = (rows.div_ceil(LANES), cols.div_ceil(BLOCK));
        let mut values = vec![0i8; panels * num_blocks * LANES * BLOCK];
        ask_for_huge_pages(&mut values);
        let mut double_scales = vec![f16::ZERO; panels * num_blocks * LANES];
        let low_len = if width == Width::Ten { 2 * num_blocks * LANES } else { 0 };
        let mut low_bits = vec![0u32; panels * low_len];
        let (shared_values, shared_scales) =
            (SharedSlice::new(&mut values), SharedSlice::new(&mut double_scales));
        let shared_low = SharedSlice::new(&mut low_bits);
        for_each_task(panels, num_threads(), |panel| {
            let (value_len, scale_len) = (num_blocks * LANES * BLOCK, num_blocks * LANES);
            // SAFETY: each task has its own panel.
            let (values, scales, low_bits) = unsafe {
                (
                    shared_values.range(panel * value_len..(panel + 1) * value_len),
                    shared_scales.range(panel * scale_len..(panel + 1) * scale_len),
                    shared_low.range(panel * low_len..(panel + 1) * low_len),
                )
            };
            let mut row = vec![0f32; cols];
            for lane in 0..LANES.min(rows - panel * LANES) {
                matrix.copy_row_f32(panel * LANES + lane, &mut row);
                for (block, weights) in row.chunks(BLOCK).enumerate() {
                    let values = &mut values[block * LANES * BLOCK..][..LANES * BLOCK];
                    let low_bits = low_bits.get_mut(2 * block * LANES..).unwrap_or_default();
                    scales[block * LANES + lane] = round_block(weights, lane, width, values, low_bits);
                }
            }
        });
        Self {
            values: Arc::new(values),
            double_scales: Arc::new(double_scales),
            low_bits: Arc::new(low_bits),
        }
    }

    pub(super) fn view(&self, cols: usize) -> Int8View<'_> {
        let num_blocks = cols.div_ceil(BLOCK);
        Int8View {
            values: &self.values,
            double_scales: &self.double_scales,
            low_bits: &self.low_bits,
            num_blocks,
        }
    }

    /// Whether no value has more bits.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn is_8_bits(&self) -> bool {
        self.low_bits.is_empty()
    }

    /// Values `[rows, cols]` and twice the scales `[rows, blocks]`, row by row, as a device takes them; `None` for 10 bits.
    #[cfg(any(test, feature = "cuda"))]
    pub(super) fn by_row(&self, rows: usize, cols: usize) -> Option<(Vec<u8>, Vec<f16>)> {
        if !self.is_8_bits() {
            return None;
        }
        let view = self.view(cols);
        let (mut values, mut scales) = (vec![0u8; rows * cols], vec![f16::ZERO; rows * view.num_blocks]);
        let (to_values, to_scales) = (SharedSlice::new(&mut values), SharedSlice::new(&mut scales));
        for_each_task(rows, num_threads(), |row| {
            // SAFETY: each task has its own row.
            let (values, scales) = unsafe {
                (
                    to_values.range(row * cols..(row + 1) * cols),
                    to_scales.range(row * view.num_blocks..(row + 1) * view.num_blocks),
                )
            };
            let first_block = row / LANES * view.num_blocks;
            for (idx, (values, scale)) in values.chunks_mut(BLOCK).zip(scales).enumerate() {
                let block = first_block + idx;
                *scale = view.double_scales[block * LANES + row % LANES];
                for (col, value) in values.iter_mut().enumerate() {
                    let at = block * LANES * BLOCK + place(row % LANES, col);
                    *value = view.values[at].cast_unsigned();
                }
            }
        });
        Some((values, scales))
    }

    /// Bytes of values and scales.
    pub(super) fn len(&self) -> usize {
        self.values.len() + size_of_val(&self.double_scales[..]) + size_of_val(&self.low_bits[..])
    }
}

impl Int8View<'_> {
    /// One weight.
    pub(crate) fn get(&self, row: usize, col: usize) -> f32 {
        let block = row / LANES * self.num_blocks + col / BLOCK;
        let q = i16::from(self.values[block * LANES * BLOCK + place(row % LANES, col % BLOCK)]);
        let (dword, shift) = low_place(col % BLOCK);
        let low = self.low_bits.get((2 * block + dword) * LANES + row % LANES);
        let q = low.map_or(q, |low| q << LOW_BITS | (low >> shift) as i16 & 3);
        f32::from(q) * (self.double_scales[block * LANES + row % LANES].to_f32() / 2.0)
    }
}

/// Where in a block of a panel the weight of a lane and a column lies.
fn place(lane: usize, col: usize) -> usize {
    let (j, s, half) = (col / 8, col % 4, col % 8 / 4);
    let pair = 4 * s + j;
    (pair / 2 * LANES + lane) * 4 + pair % 2 + 2 * half
}

/// In which dword of a row's low bits those of a column lie, and from which bit.
fn low_place(col: usize) -> (usize, u32) {
    let (j, s, half) = (col / 8, col % 4, col % 8 / 4);
    let pair = 4 * s + j;
    (pair / 8, LOW_BITS * (pair % 8) as u32 + 16 * half as u32)
}

/// Rounds up to 32 weights into their places; returns twice their scale. Of 10 bits `low_bits` take the lower two.
fn round_block(weights: &[f32], lane: usize, width: Width, values: &mut [i8], low_bits: &mut [u32]) -> f16 {
    let bound = width.max();
    let max = weights.iter().fold(0f32, |max, w| max.max(w.abs()));
    let double_scale = round_up(2.0 * max / bound);
    // Adding 1.5 * 2^23 and taking it away again rounds to the nearest whole number, and compiles to two instructions.
    const MAGIC: f32 = 12_582_912.0;
    let factor = if double_scale == f16::ZERO { 0.0 } else { 2.0 / double_scale.to_f32() };
    for (col, w) in weights.iter().enumerate() {
        // A NaN, which no checkpoint should hold, becomes 0 here; its block's scale does not hide an infinity.
        let q = ((w * factor).clamp(-bound, bound) + MAGIC - MAGIC) as i16;
        values[place(lane, col)] = match width {
            Width::Eight => q as i8,
            Width::Ten => {
                let (dword, shift) = low_place(col);
                low_bits[dword * LANES + lane] |= ((q & 3) as u32) << shift;
                (q >> LOW_BITS) as i8
            }
        };
    }
    double_scale
}

/// The smallest f16 that is no smaller, so that the largest weight of a block is within bounds.
fn round_up(x: f32) -> f16 {
    let nearest = f16::from_f32(x);
    if nearest.to_f32() < x { f16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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
    fn low_bits_have_places_of_their_own() {
        let mut places: Vec<_> = (0..BLOCK).map(low_place).collect();
        places.sort_unstable();
        let expected: Vec<_> = (0..2).flat_map(|dword| (0..16).map(move |at| (dword, 2 * at))).collect();
        assert_eq!(places, expected);
    }

    #[test]
    fn a_weight_is_off_by_half_a_step_at_most() {
        let weights: Vec<f32> = (0..16 * 70).map(|i| (i as f32 * 0.37).sin() * 0.02).collect();
        let bytes = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        let bytes = crate::WeightBytes::owned(bytes);
        let matrix = Matrix::new(bytes, candle_core::DType::F32, 16, 70).unwrap();
        for (width, bound) in [(Width::Eight, 127.0), (Width::Ten, 511.0)] {
            let rounded = Int8::new(&matrix, width);
            for (row, weights) in weights.chunks(70).enumerate() {
                for (block, weights) in weights.chunks(BLOCK).enumerate() {
                    let step = weights.iter().fold(0f32, |max, w| max.max(w.abs())) / bound;
                    for (col, w) in weights.iter().enumerate() {
                        let found = rounded.view(70).get(row, block * BLOCK + col);
                        // Half a step, which f16 rounds up: by a part in 1,024, or to its next subnormal.
                        let most = 0.501 * step + 3e-8;
                        assert!((found - w).abs() <= most, "{width:?} {row} {col}: {found}, should be {w}");
                    }
                }
            }
        }
    }
}
