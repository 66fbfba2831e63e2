//! Integer products: activations in block floating point of 16 bits, weights as small integers.
//!
//! A row of activations is cut in blocks of 32 that share a power of two, the largest below which every value
//! of the block fits 16 bits: at least 15 significant bits for the largest value of a block, where bf16 has 8.
//! MXFP4 weights are whole halves, at most 12 of them. The sum over a block is therefore an exact integer, and
//! scaling it by the two powers of two is exact too. What is left to round is the sum over blocks:
//!
//! `out = (p[0] + p[2]) + (p[1] + p[3])`, `p[j] = sum over blocks b = j mod 4, ascending, of scale[b] * sum[b]`,
//!
//! each step one fused multiply-add. Weights of 8 or 10 bits go the same way, their scale one f16 per block; sums past
//! 2^24 are rounded to f32 once. Every way through this folder follows that to the bit, on every processor. With few
//! tokens (`narrow` and `narrow_int8` of [`avx2`], [`avx512`] and [`neon`]) each weight is read once and decoded in registers; with
//! many ([`wide`]) 32 rows are unpacked into the first-level cache, some columns at a time; [`amx`] has tiles multiply
//! weights of 8 and 10 bits with many.

mod activations;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod int8_panel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panel;
#[cfg(test)]
mod tests;
mod wide;

use std::ops::Range;

use crate::Isa;
#[cfg(target_arch = "x86_64")]
use crate::cpu::has_avx_vnni;
use crate::weight::{Format, Int8View, MatrixView};

use activations::Quantized;
use panel::PanelSource;
use wide::Tiles;

pub(crate) use activations::Int16Rows;
#[cfg(target_arch = "x86_64")]
pub(crate) use amx::Int16Tiles;
#[cfg(target_arch = "x86_64")]
pub(super) use amx::multiply as multiply_tiles;

/// Values that share a scale.
const BLOCK: usize = 32;
/// Values of a row that are laid out together: four blocks, one cache line of MXFP4.
const GROUP: usize = 128;
/// Pairs of a block.
const PAIRS: usize = BLOCK / 2;
/// Runs of 16 pairs in which a group is laid out: the pairs that a shift by as many nibbles brings down.
const PLANES: usize = 4;
/// Rows of a panel of weights of 8 and 10 bits; 32-bit lanes of 64 bytes.
const LANES: usize = 16;

/// Most tokens that weights of 8 and 10 bits meet without AMX where it is there.
#[cfg(target_arch = "x86_64")]
pub(super) const FEWER_THAN_TILES: usize = 8;

/// MXFP4 rows of one matrix.
#[derive(Clone, Copy)]
struct Mxfp4Rows<'a> {
    blocks: &'a [u8],
    scales: &'a [u8],
    /// Blocks per row.
    num_blocks: usize,
}

/// What one instruction set brings. Its methods need a processor that has it.
trait Unit: Sized {
    /// Most tokens for which decoding MXFP4 in registers, once for every few of them, beats unpacking it.
    const FEW_MXFP4: usize;
    /// The same of 8 and 10 bits.
    const FEW_INT8: usize;
    /// Most tokens of a tile of [`wide`]: their sums are what the registers hold. At most [`LANES`].
    const TILE: usize;

    /// Quantises up to 32 values.
    unsafe fn quantize(values: &[f32]) -> Quantized;

    /// Quantises up to 32 values of each of up to [`Unit::TILE`] tokens: `[16 pairs, tokens]`, as bits, and half steps.
    unsafe fn quantize_tile(tokens: &[&[f32]], pairs: &mut [f32], half_steps: &mut [f32]) {
        for (token, values) in tokens.iter().enumerate() {
            // SAFETY: the trait's condition.
            let (quantized, half_step) = unsafe { Self::quantize(values) };
            half_steps[token] = half_step;
            for (to, pair) in pairs[token..].iter_mut().step_by(tokens.len()).zip(quantized) {
                *to = f32::from_bits(pair as u32);
            }
        }
    }

    /// [`multiply`] with few tokens.
    unsafe fn multiply_mxfp4(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]);

    /// The same of 8 and 10 bits.
    unsafe fn multiply_int8(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]);

    /// Adds the products of a panel with tiles of tokens to `parts`, `[tiles, tokens, 4, 32 rows]`, which begin on a cache
    /// line, and asks memory ahead for what the tiles have to.
    unsafe fn add_tiles(tiles: Tiles, parts: &mut [f32]);

    /// `(p[0] + p[2]) + (p[1] + p[3])` of a token's `parts`, for the first rows of a panel.
    unsafe fn merge(parts: &[f32], out: &mut [f32]) {
        for (row, out) in out.iter_mut().enumerate() {
            let part = |part: usize| parts[part * panel::ROWS + row];
            *out = (part(0) + part(2)) + (part(1) + part(3));
        }
    }
}

/// As [`super::multiply`].
///
/// # Safety
/// The instructions that `x` was packed for; `rows` within the weight; `x` packed for it.
pub(super) unsafe fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match x.isa() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if has_avx_vnni() => multiply_with::<avx2::Avx2<true>>(weight, rows, x, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => multiply_with::<avx2::Avx2<false>>(weight, rows, x, out),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => multiply_with::<avx512::Avx512>(weight, rows, x, out),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon if neon::NeonDot::takes(weight.format) => {
                multiply_with::<neon::NeonDot>(weight, rows, x, out)
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => multiply_with::<neon::Neon>(weight, rows, x, out),
            isa => unreachable!("never packed for {}", isa.name()),
        }
    }
}

/// # Safety
/// As [`multiply`].
unsafe fn multiply_with<U: Unit>(weight: MatrixView<'_>, rows: Range<usize>, x: &Int16Rows, out: &mut [f32])
where
    for<'a> Mxfp4Rows<'a>: PanelSource<U>,
    for<'a> Int8View<'a>: PanelSource<U>,
{
    assert_eq!(out.len(), rows.len() * x.num_tokens());
    assert_eq!(weight.cols.div_ceil(GROUP), x.num_groups());
    // SAFETY: the caller's promise; the lengths were checked.
    unsafe {
        match (weight.format, x.are_few()) {
            (Format::Mxfp4 { blocks, scales }, few) => {
                let weight = Mxfp4Rows { blocks, scales, num_blocks: weight.cols / BLOCK };
                match few {
                    true => U::multiply_mxfp4(weight, rows, x, out),
                    false => wide::multiply::<U, _>(weight, rows, x, out),
                }
            }
            (Format::Int8(weight), few) => {
                assert!(rows.start.is_multiple_of(LANES), "rows {rows:?} begin within a panel");
                match few {
                    true => U::multiply_int8(weight, rows, x, out),
                    false => wide::multiply::<U, _>(weight, rows, x, out),
                }
            }
            _ => unreachable!("not taken"),
        }
    }
}
