//! f32 products of dense weights with NEON: bf16 is widened in registers and never stored. Sums have the lanes and the order of
//! [AVX2's](super).

use std::arch::aarch64::*;
use std::ops::Range;

use super::f32_pack::{BLOCK, F32Rows};
use crate::weight::{Format, MatrixView};

/// Lanes of a sum, in two registers.
const LANES: usize = 8;
/// Most tokens of a register tile.
const TOKENS: usize = 4;

/// Whether this path reads the format.
pub(super) fn takes(format: Format<'_>) -> bool {
    matches!(format, Format::Bf16(_) | Format::F32(_))
}

/// As [`super::multiply`].
pub(super) fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let cols = weight.cols;
    match weight.format {
        Format::Bf16(bytes) => product(DenseBf16(bytes, cols), rows, x, out),
        Format::F32(bytes) => product(DenseF32(bytes, cols), rows, x, out),
        Format::Mxfp4 { .. } | Format::Bf16Transposed(_) | Format::Int8(_) => unreachable!("not taken"),
    }
}

/// Eight lanes.
type Sum = [float32x4_t; 2];

/// Row-major weights, read eight values at a time.
trait Source: Copy {
    /// Bytes of a value.
    const BYTES: usize;
    /// The bytes of a row.
    fn row(&self, row: usize) -> &[u8];
    /// # Safety
    /// Eight values are there.
    unsafe fn load(from: *const u8) -> Sum;
}

/// bf16, and values per row.
#[derive(Clone, Copy)]
struct DenseBf16<'a>(&'a [u8], usize);

impl Source for DenseBf16<'_> {
    const BYTES: usize = 2;

    fn row(&self, row: usize) -> &[u8] {
        &self.0[2 * row * self.1..][..2 * self.1]
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Sum {
        // SAFETY: the caller's promise.
        unsafe {
            let values = vreinterpretq_u16_u8(vld1q_u8(from));
            let [low, high] = [vshll_n_u16::<16>(vget_low_u16(values)), vshll_high_n_u16::<16>(values)];
            [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)]
        }
    }
}

/// f32, and values per row.
#[derive(Clone, Copy)]
struct DenseF32<'a>(&'a [u8], usize);

impl Source for DenseF32<'_> {
    const BYTES: usize = 4;

    fn row(&self, row: usize) -> &[u8] {
        &self.0[4 * row * self.1..][..4 * self.1]
    }

    #[inline(always)]
    unsafe fn load(from: *const u8) -> Sum {
        // SAFETY: the caller's promise.
        unsafe { [vreinterpretq_f32_u8(vld1q_u8(from)), vreinterpretq_f32_u8(vld1q_u8(from.add(16)))] }
    }
}

/// All rows with all tokens.
fn product<S: Source>(source: S, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    for first in (0..x.num_tokens()).step_by(TOKENS) {
        let tokens = first..x.num_tokens().min(first + TOKENS);
        match tokens.len() {
            1 => tiles::<S, 4, 1>(source, rows.clone(), tokens, x, out),
            2 => tiles::<S, 4, 2>(source, rows.clone(), tokens, x, out),
            3 => tiles::<S, 2, 3>(source, rows.clone(), tokens, x, out),
            _ => tiles::<S, 2, TOKENS>(source, rows.clone(), tokens, x, out),
        }
    }
}

/// Register tiles of `R` rows with `T` tokens, then the rows that are left one by one.
fn tiles<S: Source, const R: usize, const T: usize>(
    source: S,
    rows: Range<usize>,
    tokens: Range<usize>,
    x: &F32Rows,
    out: &mut [f32],
) {
    let width = rows.len();
    let packed: [&[f32]; T] = std::array::from_fn(|t| x.row(tokens.start + t));
    let whole = width / R * R;
    for r in (0..whole).step_by(R) {
        put(tile::<S, R, T>(source, rows.start + r, &packed), out, tokens.start * width + r, width);
    }
    for r in whole..width {
        put(tile::<S, 1, T>(source, rows.start + r, &packed), out, tokens.start * width + r, width);
    }
}

fn put<const R: usize, const T: usize>(tile: [[f32; T]; R], out: &mut [f32], at: usize, width: usize) {
    for (r, sums) in tile.into_iter().enumerate() {
        for (t, sum) in sums.into_iter().enumerate() {
            out[at + t * width + r] = sum;
        }
    }
}

/// Each sum is fed eight values after the other: the order is the same for every `R` and `T`.
#[inline(always)]
fn tile<S: Source, const R: usize, const T: usize>(source: S, row: usize, x: &[&[f32]; T]) -> [[f32; T]; R] {
    let rows: [&[u8]; R] = std::array::from_fn(|r| source.row(row + r));
    let len = rows[0].len() / S::BYTES;
    let whole = len / LANES * LANES;
    assert!(x.iter().all(|x| x.len() >= len.next_multiple_of(LANES)));
    // SAFETY: every aarch64 processor has the instructions; rows have `whole` values, and packed rows whole blocks.
    unsafe {
        let mut sums = [[[vdupq_n_f32(0.0); 2]; T]; R];
        for at in (0..whole).step_by(LANES) {
            let weights = rows.map(|row| S::load(row.as_ptr().add(at * S::BYTES)));
            add(&mut sums, weights, x, at);
        }
        if whole < len {
            let mut padded = [[0u8; 4 * BLOCK]; R];
            for (padded, row) in padded.iter_mut().zip(rows) {
                let tail = &row[whole * S::BYTES..];
                padded[..tail.len()].copy_from_slice(tail);
            }
            let weights = padded.each_ref().map(|padded| S::load(padded.as_ptr()));
            add(&mut sums, weights, x, whole);
        }
        sums.map(|sums| sums.map(|sum| horizontal_sum(sum)))
    }
}

/// Adds eight values of each row times those of each token.
///
/// # Safety
/// `x` have eight values from `at`.
#[inline(always)]
unsafe fn add<const R: usize, const T: usize>(
    sums: &mut [[Sum; T]; R],
    weights: [Sum; R],
    x: &[&[f32]; T],
    at: usize,
) {
    for t in 0..T {
        // SAFETY: the caller's promise.
        unsafe {
            let from = x[t].as_ptr().add(at);
            let (low, high) = (vld1q_f32(from), vld1q_f32(from.add(4)));
            for r in 0..R {
                let [sum_low, sum_high] = sums[r][t];
                sums[r][t] =
                    [vfmaq_f32(sum_low, weights[r][0], low), vfmaq_f32(sum_high, weights[r][1], high)];
            }
        }
    }
}

/// The eight lanes in a halving tree.
#[inline(always)]
unsafe fn horizontal_sum([low, high]: Sum) -> f32 {
    // SAFETY: every aarch64 processor has the instructions.
    unsafe {
        let four = vaddq_f32(low, high);
        vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
    }
}
