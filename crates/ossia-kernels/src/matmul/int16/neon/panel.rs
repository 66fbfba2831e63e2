//! Unpacks weights into a panel. Within the 16 lanes of a half the first integers of all pairs come before the second ones:
//! a multiplication by one activation then takes rows side by side.

use std::arch::aarch64::*;
use std::ops::Range;

use super::super::panel::{BLOCKS, PanelSource, ROWS};
use super::super::{BLOCK, LANES, Mxfp4Rows, PAIRS};
use super::{Neon, WIDTH, decode_by_shift, widen, widen_with};
use crate::mxfp4;
use crate::weight::Int8View;

/// Rows whose first integers fill a register.
const EIGHT: usize = 2 * WIDTH;

impl PanelSource<Neon> for Mxfp4Rows<'_> {
    const GROUPS: usize = 2;

    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]) {
        for lane in 0..LANES {
            let row = row_of(&rows, lane);
            let scales = &self.scales[row * self.num_blocks..][..self.num_blocks];
            let places = to[lane..].iter_mut().step_by(ROWS);
            for (block, to) in places.enumerate() {
                *to = scales.get(block).map_or(1.0, |scale| mxfp4::decode_scale(*scale));
            }
        }
    }

    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]) {
        fill_blocks(group, self.num_blocks, to, |at, to| {
            // SAFETY: the caller's promise; the rows have the block.
            unsafe { mxfp4_block(self, rows.clone(), at, to) }
        });
    }
}

impl PanelSource<Neon> for Int8View<'_> {
    const GROUPS: usize = 2;

    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]) {
        let from = rows.start / LANES * self.num_blocks * LANES;
        let mut scales = self.double_scales[from..][..self.num_blocks * LANES].chunks_exact(LANES);
        for to in to.chunks_mut(ROWS) {
            match scales.next() {
                Some(scales) => to.iter_mut().zip(scales).for_each(|(to, scale)| *to = scale.to_f32()),
                None => to[..LANES].fill(0.0),
            }
        }
    }

    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]) {
        fill_blocks(group, self.num_blocks, to, |at, to| {
            // SAFETY: the caller's promise; the panel has the block.
            unsafe { int8_block(self, rows.start / LANES * self.num_blocks + at, to) }
        });
    }
}

/// Has each block of a group filled in that rows of `num_blocks` have, by its number; past them weights are zero.
pub(super) fn fill_blocks(group: usize, num_blocks: usize, to: &mut [f32], fill: impl Fn(usize, &mut [f32])) {
    for (block, to) in to.chunks_mut(PAIRS * ROWS).enumerate() {
        let at = group * BLOCKS + block;
        match at < num_blocks {
            true => fill(at, to),
            false => to.chunks_mut(ROWS).for_each(|pair| pair[..LANES].fill(0.0)),
        }
    }
}

/// The row of a lane. Past the last row the last one is taken again.
pub(super) fn row_of(rows: &Range<usize>, lane: usize) -> usize {
    rows.start + lane.min(rows.len() - 1)
}

/// Writes the pairs of eight rows, `first` those of the first four, to their lanes of `to`.
///
/// # Safety
/// NEON; `to` has the lanes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn put(first: int16x8_t, second: int16x8_t, first_lane: usize, to: &mut [f32]) {
    let to = &mut to[..LANES];
    let to: *mut i16 = to.as_mut_ptr().cast();
    // SAFETY: 16 lanes have room for 16 first and 16 second integers; eight fill a register.
    unsafe {
        vst1q_s16(to.add(first_lane), vuzp1q_s16(first, second));
        vst1q_s16(to.add(LANES + first_lane), vuzp2q_s16(first, second));
    }
}

/// Unpacks a block of up to 16 rows.
///
/// # Safety
/// NEON; the rows have the block, `to` its pairs.
#[target_feature(enable = "neon")]
unsafe fn mxfp4_block(weight: Mxfp4Rows, rows: Range<usize>, block: usize, to: &mut [f32]) {
    const CODES: usize = BLOCK / 2;
    for first_lane in (0..LANES).step_by(EIGHT) {
        let dwords = [0, WIDTH].map(|offset| {
            let codes: [uint32x4_t; WIDTH] = std::array::from_fn(|lane| {
                let row = row_of(&rows, first_lane + offset + lane);
                let codes = &weight.blocks[(row * weight.num_blocks + block) * CODES..][..CODES];
                // SAFETY: a block's codes fill a register.
                vreinterpretq_u32_u8(unsafe { vld1q_u8(codes.as_ptr()) })
            });
            transpose_4x4(codes)
        });
        for j in 0..WIDTH {
            let [first, second] =
                dwords.each_ref().map(|rows| decode_by_shift(vreinterpretq_u8_u32(rows[j])));
            for s in 0..4 {
                // SAFETY: the caller's promise.
                unsafe { put(first[s], second[s], first_lane, &mut to[(4 * s + j) * ROWS..]) };
            }
        }
    }
}

/// Unpacks block `at` of the weight, 16 rows in 8 or 10 bits.
///
/// # Safety
/// NEON; the weight has the block, `to` its pairs.
#[target_feature(enable = "neon")]
unsafe fn int8_block(weight: Int8View, at: usize, to: &mut [f32]) {
    const DWORDS: usize = BLOCK / 4;
    let values = &weight.values[at * LANES * BLOCK..][..LANES * BLOCK];
    let low_bits = weight.low_bits.get(2 * at * LANES..).unwrap_or_default();
    for first_lane in (0..LANES).step_by(EIGHT) {
        let mut low = [vdupq_n_u16(0); 2];
        for dword in 0..DWORDS {
            let pairs: [[int16x8_t; 2]; 2] = std::array::from_fn(|half| {
                let lane = first_lane + half * WIDTH;
                let bytes = &values[(dword * LANES + lane) * 4..][..4 * WIDTH];
                // SAFETY: a dword of four rows fills a register.
                let bytes = unsafe { vld1q_s8(bytes.as_ptr()) };
                if low_bits.is_empty() {
                    return widen(bytes);
                }
                if dword % 4 == 0 {
                    let bits = &low_bits[dword / 4 * LANES + lane..][..WIDTH];
                    // SAFETY: four dwords fill a register.
                    low[half] = unsafe { vld1q_u16(bits.as_ptr().cast()) };
                }
                widen_with(bytes, &mut low[half])
            });
            for odd in 0..2 {
                let to = &mut to[(2 * dword + odd) * ROWS..];
                // SAFETY: the caller's promise.
                unsafe { put(pairs[0][odd], pairs[1][odd], first_lane, to) };
            }
        }
    }
}

/// `out[i][j] = rows[j][i]`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn transpose_4x4([a, b, c, d]: [uint32x4_t; 4]) -> [uint32x4_t; 4] {
    let even = [vtrn1q_u32(a, b), vtrn1q_u32(c, d)].map(|x| vreinterpretq_u64_u32(x));
    let odd = [vtrn2q_u32(a, b), vtrn2q_u32(c, d)].map(|x| vreinterpretq_u64_u32(x));
    [
        vtrn1q_u64(even[0], even[1]),
        vtrn1q_u64(odd[0], odd[1]),
        vtrn2q_u64(even[0], even[1]),
        vtrn2q_u64(odd[0], odd[1]),
    ]
    .map(|x| vreinterpretq_u32_u64(x))
}
