//! Many tokens with products of bytes (`dotprod`). An activation of 16 bits is an upper byte and a lower one: each is multiplied with weights of
//! up to 8 bits, four at a time, which takes half the instructions that products of 16 bits take and gives the same sums.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use super::super::activations::Quantized;
use super::super::panel::{PanelSource, ROWS};
use super::super::wide::Tiles;
use super::super::{BLOCK, Int16Rows, LANES, Mxfp4Rows, PAIRS, Unit};
use super::panel::{fill_blocks, row_of, transpose_4x4};
use super::tile::QUARTERS;
use super::{Neon, WIDTH, decode, quantize, tile};
use crate::weight::{Format, Int8View};

/// Quads of a block: the bytes of two pairs, which one product takes, first values before second ones. They lie where pairs lie otherwise: of a
/// tile's tokens the upper bytes of all quads and then the lower ones, of a panel the weights and then 128 times the sum of
/// each row's.
const QUADS: usize = PAIRS / 2;

/// NEON with products of bytes.
pub(in super::super) struct NeonDot;

impl NeonDot {
    /// Whether it is there and takes weights in `format`.
    pub(in super::super) fn takes(format: Format<'_>) -> bool {
        let has_bytes = match format {
            Format::Mxfp4 { .. } => true,
            Format::Int8(weight) => weight.low_bits.is_empty(),
            _ => false,
        };
        has_bytes && std::arch::is_aarch64_feature_detected!("dotprod")
    }
}

impl Unit for NeonDot {
    const FEW_MXFP4: usize = Neon::FEW_MXFP4;
    const FEW_INT8: usize = Neon::FEW_INT8;
    const TILE: usize = Neon::TILE;

    unsafe fn quantize(values: &[f32]) -> Quantized {
        quantize::quantize(values)
    }

    /// `[upper, lower][8 quads, tokens]`; lower bytes less 128, as the products take signs.
    unsafe fn quantize_tile(tokens: &[&[f32]], pairs: &mut [f32], half_steps: &mut [f32]) {
        let (upper, lower) = pairs.split_at_mut(QUADS * tokens.len());
        for (token, values) in tokens.iter().enumerate() {
            let (quantized, half_step) = quantize::quantize(values);
            half_steps[token] = half_step;
            for (quad, pairs) in quantized.as_chunks::<2>().0.iter().enumerate() {
                let [a, b] = pairs.map(|pair| [pair as i16, (pair >> 16) as i16]);
                let values = [a[0], b[0], a[1], b[1]];
                let at = quad * tokens.len() + token;
                upper[at] = f32::from_le_bytes(values.map(|value| (value >> 8) as u8));
                lower[at] = f32::from_le_bytes(values.map(|value| value as u8 ^ 0x80));
            }
        }
    }

    unsafe fn multiply_mxfp4(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { Neon::multiply_mxfp4(weight, rows, x, out) }
    }

    unsafe fn multiply_int8(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { Neon::multiply_int8(weight, rows, x, out) }
    }

    unsafe fn add_tiles(tiles: Tiles, parts: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { tile::add::<true>(tiles, parts) }
    }
}

impl PanelSource<NeonDot> for Mxfp4Rows<'_> {
    const GROUPS: usize = <Self as PanelSource<Neon>>::GROUPS;

    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { <Self as PanelSource<Neon>>::fill_scales(self, rows, to) }
    }

    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]) {
        fill_blocks(group, self.num_blocks, to, |at, to| {
            // SAFETY: the caller's promise; the rows have the block.
            unsafe { mxfp4_block(self, rows.clone(), at, to) }
        });
    }
}

impl PanelSource<NeonDot> for Int8View<'_> {
    const GROUPS: usize = <Self as PanelSource<Neon>>::GROUPS;

    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { <Self as PanelSource<Neon>>::fill_scales(self, rows, to) }
    }

    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]) {
        fill_blocks(group, self.num_blocks, to, |at, to| {
            // SAFETY: the caller's promise; the panel has the block.
            unsafe { int8_block(self, rows.start / LANES * self.num_blocks + at, to) }
        });
    }
}

/// Writes a quad of four rows to their lanes, and adds their weights to `sums`.
///
/// # Safety
/// NEON.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn put(weights: int8x16_t, quad: usize, first_lane: usize, to: &mut [f32], sums: &mut int32x4_t) {
    let to = to[quad * ROWS + first_lane..][..WIDTH].as_mut_ptr();
    // SAFETY: four dwords are a register long.
    unsafe { vst1q_s8(to.cast(), weights) };
    *sums = vpadalq_s16(*sums, vpaddlq_s8(weights));
}

/// Writes what the lower bytes of activations lack of each row's sum: they have 128 less.
///
/// # Safety
/// NEON.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn put_sums(sums: int32x4_t, first_lane: usize, to: &mut [f32]) {
    let to = to[QUADS * ROWS + first_lane..][..WIDTH].as_mut_ptr();
    // SAFETY: four dwords are a register long.
    unsafe { vst1q_s32(to.cast(), vshlq_n_s32::<7>(sums)) };
}

/// Unpacks a block of up to 16 rows.
///
/// # Safety
/// NEON; the rows have the block, `to` its quads.
#[target_feature(enable = "neon")]
unsafe fn mxfp4_block(weight: Mxfp4Rows, rows: Range<usize>, block: usize, to: &mut [f32]) {
    const CODES: usize = BLOCK / 2;
    for first_lane in (0..LANES).step_by(WIDTH) {
        let codes: [uint32x4_t; WIDTH] = std::array::from_fn(|lane| {
            let row = row_of(&rows, first_lane + lane);
            let codes = &weight.blocks[(row * weight.num_blocks + block) * CODES..][..CODES];
            // SAFETY: a block's codes fill a register.
            vreinterpretq_u32_u8(unsafe { vld1q_u8(codes.as_ptr()) })
        });
        // Of each dword the values with even and those with odd indices: a shift by `s` nibbles brings the pairs of every other to the
        // bottom of 16 bits.
        let dwords = transpose_4x4(codes).map(|codes| decode(vreinterpretq_u8_u32(codes)));
        let mut sums = vdupq_n_s32(0);
        for (half, [a, b]) in dwords.as_chunks::<2>().0.iter().enumerate() {
            for odd in 0..2 {
                // SAFETY: the caller's promise.
                unsafe {
                    put(vtrn1q_s8(a[odd], b[odd]), 2 * odd + half, first_lane, to, &mut sums);
                    put(vtrn2q_s8(a[odd], b[odd]), 2 * (odd + 2) + half, first_lane, to, &mut sums);
                }
            }
        }
        // SAFETY: the caller's promise.
        unsafe { put_sums(sums, first_lane, to) };
    }
}

/// Copies block `at` of the weight, 16 rows in 8 bits, whose dwords are the quads.
///
/// # Safety
/// NEON; the weight has the block, `to` its quads.
#[target_feature(enable = "neon")]
unsafe fn int8_block(weight: Int8View, at: usize, to: &mut [f32]) {
    let values = &weight.values[at * LANES * BLOCK..][..LANES * BLOCK];
    for first_lane in (0..LANES).step_by(WIDTH) {
        let mut sums = vdupq_n_s32(0);
        for quad in 0..QUADS {
            let bytes = &values[(quad * LANES + first_lane) * 4..][..4 * WIDTH];
            // SAFETY: a dword of four rows fills a register; the caller's promise.
            unsafe { put(vld1q_s8(bytes.as_ptr()), quad, first_lane, to, &mut sums) };
        }
        // SAFETY: the caller's promise.
        unsafe { put_sums(sums, first_lane, to) };
    }
}

/// Exact sums of one block of 16 rows of a panel with `x`, `[upper, lower][8 quads, T tokens]`.
///
/// # Safety
/// NEON with products of bytes; weights and tokens are there.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn block_sums<const T: usize>(
    weights: *const i32,
    x: *const i32,
) -> [[int32x4_t; QUARTERS]; T] {
    let mut sums = [[vdupq_n_s32(0); QUARTERS]; T];
    // SAFETY: the caller's promise.
    unsafe {
        add_quads(&mut sums, weights, x);
        for quarter in 0..QUARTERS {
            let lacking = vld1q_s32(weights.add(QUADS * ROWS + quarter * WIDTH));
            for sums in &mut sums {
                sums[quarter] = vaddq_s32(vshlq_n_s32::<8>(sums[quarter]), lacking);
            }
        }
        add_quads(&mut sums, weights, x.add(QUADS * T));
    }
    sums
}

/// Adds the products of a block's weights with the bytes `x`, `[8 quads, T tokens]`.
///
/// # Safety
/// As [`block_sums`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_quads<const T: usize>(
    sums: &mut [[int32x4_t; QUARTERS]; T],
    weights: *const i32,
    x: *const i32,
) {
    for quad in 0..QUADS {
        let mut bytes = [0; WIDTH];
        // SAFETY: the caller's promise; there are no more than four tokens.
        let x = unsafe {
            bytes.iter_mut().take(T).enumerate().for_each(|(t, to)| *to = *x.add(quad * T + t));
            vld1q_s8(bytes.as_ptr().cast())
        };
        for quarter in 0..QUARTERS {
            // SAFETY: as above.
            unsafe {
                let w = vld1q_s8(weights.add(quad * ROWS + quarter * WIDTH).cast());
                for (t, sums) in sums.iter_mut().enumerate() {
                    sums[quarter] = match t {
                        0 => add_products::<0>(sums[quarter], w, x),
                        1 => add_products::<1>(sums[quarter], w, x),
                        2 => add_products::<2>(sums[quarter], w, x),
                        _ => add_products::<3>(sums[quarter], w, x),
                    };
                }
            }
        }
    }
}

/// To each lane of `sum` the products of its four bytes of `weights` with those of lane `LANE` of `x`.
///
/// # Safety
/// Products of bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add_products<const LANE: usize>(mut sum: int32x4_t, weights: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction, which has no stable intrinsic yet, is there, and touches nothing but the three registers.
    unsafe {
        asm!(
            ".arch_extension dotprod",
            "sdot {sum:v}.4s, {weights:v}.16b, {x:v}.4b[{lane}]",
            sum = inout(vreg) sum, weights = in(vreg) weights, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}
