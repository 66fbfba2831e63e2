//! bf16 products with AMX: weights become bf16 tiles without rounding, sums are f32 in tile registers.
//!
//! A tile product multiplies 16 weight rows with up to 16 tokens over 32 values of `k`; rows and tokens
//! never meet. Every path through this folder feeds a (row, token) sum the same tiles in ascending order
//! of `k`, so its bits are the same for one token and for a thousand.
//!
//! Inside, the unit adds the even and the odd products of a tile apart, then both to the sum; it takes
//! subnormal bf16 inputs as zero and flushes subnormal results to zero. A NaN or infinity (also those that
//! MXFP4 scales from 253 up stand for) travels as in f32.

mod kernel;
mod narrow;
mod pack;
mod stage;
mod wide;

use std::ops::Range;

use crate::cpu::Scratch;
use crate::weight::{Format, MatrixView};
use stage::{Mxfp4, RowMajor, Transposed};

pub(crate) use pack::TiledRows;

/// Values of `k` per tile.
const BLOCK: usize = 32;
/// Rows or tokens per tile.
const GROUP: usize = 16;

/// A buffer of `bytes` bytes for staged tiles, on a cache line.
fn staging(bytes: usize) -> Scratch {
    Scratch::new(bytes / size_of::<f32>())
}

/// As [`super::multiply`].
///
/// # Safety
/// AMX was detected; `rows` within the weight; `x` packed for it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &TiledRows, out: &mut [f32]) {
    assert_eq!(out.len(), rows.len() * x.num_tokens());
    assert_eq!(weight.cols.div_ceil(BLOCK), x.num_blocks());
    // SAFETY: the caller's promise; the lengths were checked.
    unsafe {
        match weight.format {
            Format::Mxfp4 { blocks, scales } => {
                product(Mxfp4::new(blocks, scales, weight.cols), rows, x, out);
            }
            Format::Bf16(bytes) => product(RowMajor::new(bytes, weight.cols), rows, x, out),
            Format::Bf16Transposed(bytes) => {
                product(Transposed::new(bytes, weight.rows, weight.cols), rows, x, out);
            }
            Format::F32(_) | Format::Int8(_) => unreachable!("these weights are not exact in bf16"),
        }
    }
}

/// # Safety
/// As [`multiply`], with lengths checked.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn product<S: stage::Source>(source: S, rows: Range<usize>, x: &TiledRows, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        if x.num_groups() == 1 {
            narrow::product(source, rows, x, out);
        } else {
            wide::product(source, rows, x, out);
        }
    }
}
