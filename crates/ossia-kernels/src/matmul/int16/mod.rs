//! Integer products with AVX-512 VNNI: activations in block floating point of 16 bits, weights as small integers.
//!
//! A row of activations is cut in blocks of 32 that share a power of two, the largest below which every value
//! of the block fits 16 bits: at least 15 significant bits for the largest value of a block, where bf16 has 8.
//! MXFP4 weights are whole halves, at most 12 of them. The sum over a block is therefore an exact integer, and
//! scaling it by the two powers of two is exact too. What is left to round is the sum over blocks:
//!
//! `out = (p[0] + p[2]) + (p[1] + p[3])`, `p[j] = sum over blocks b = j mod 4, ascending, of scale[b] * sum[b]`,
//!
//! each step one fused multiply-add. Weights of 8 or 10 bits go the same way, their scale one f16 per block; sums past
//! 2^24 are rounded to f32 once. Every way through this folder follows that to the bit: [`narrow`] and
//! [`narrow_int8`] read each weight once, in registers, for a few tokens; [`wide`] unpacks 32 rows into the
//! first-level cache, some columns at a time, for many; [`tiles`] has AMX multiply weights of 8 and 10 bits with many.

mod activations;
mod narrow;
mod narrow_int8;
mod panel;
#[cfg(test)]
mod tests;
mod tiles;
mod wide;

use std::arch::asm;
use std::arch::x86_64::__m512i;
use std::ops::Range;

use crate::weight::{Format, MatrixView};

pub(crate) use activations::Int16Rows;
pub(crate) use tiles::Int16Tiles;
pub(super) use tiles::multiply as multiply_tiles;

/// Values that share a scale.
const BLOCK: usize = 32;
/// Values of a row that are laid out together: four blocks, one cache line of MXFP4.
const GROUP: usize = 128;
/// Pairs of a block.
const PAIRS: usize = BLOCK / 2;
/// Registers that the pairs of a group fill.
const PLANES: usize = 4;
/// 32-bit lanes of a register.
const LANES: usize = 16;
/// Most tokens of a register tile of [`wide`]: their sums, two registers each, leave room for what they are summed from.
const TILE: usize = 12;

/// Most tokens for which decoding weights in registers, once for every few of them, beats unpacking them. More than half
/// a tile, so that no tile of [`wide`] is smaller than that.
pub(super) fn few_tokens(format: Format<'_>) -> usize {
    if matches!(format, Format::Int8(_)) { 16 } else { 12 }
}

/// Most tokens that weights of 8 and 10 bits meet without AMX where it is there.
pub(super) const FEWER_THAN_TILES: usize = 8;

/// MXFP4 rows of one matrix.
#[derive(Clone, Copy)]
struct Mxfp4Rows<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    /// Blocks per row.
    num_blocks: usize,
}

/// `sum` plus the two products of each lane.
///
/// The intrinsic would do, but for the compiler: it takes the instruction for slow and, where that shortens a
/// chain of them, makes a multiplication and an addition of it.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn add_products(mut sum: __m512i, weights: __m512i, x: __m512i) -> __m512i {
    // SAFETY: the instruction is there, and touches nothing but the three registers.
    unsafe {
        asm!(
            "vpdpwssd {0}, {1}, {2}",
            inout(zmm_reg) sum, in(zmm_reg) weights, in(zmm_reg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// As [`super::multiply`].
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI; `rows` within the weight; `x` packed for it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    assert_eq!(out.len(), rows.len() * x.num_tokens());
    assert_eq!(weight.cols.div_ceil(GROUP), x.num_groups());
    let few = x.are_few();
    // SAFETY: the caller's promise; the lengths were checked.
    unsafe {
        match weight.format {
            Format::Mxfp4 { blocks, scales } => {
                let weight = Mxfp4Rows { blocks, scales, num_blocks: weight.cols / BLOCK };
                match few {
                    true => narrow::multiply(weight, rows, x, out),
                    false => wide::multiply(weight, rows, x, out),
                }
            }
            Format::Int8(weight) => {
                assert!(rows.start.is_multiple_of(LANES), "rows {rows:?} begin within a panel");
                match few {
                    true => narrow_int8::multiply(weight, rows, x, out),
                    false => wide::multiply(weight, rows, x, out),
                }
            }
            _ => unreachable!("not taken"),
        }
    }
}
