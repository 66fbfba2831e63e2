//! The integer products with NEON, which every aarch64 processor has, and with its products of bytes, which most have.

mod dot;
mod narrow;
mod narrow_int8;
mod panel;
mod quantize;
mod tile;

use std::arch::aarch64::*;
use std::ops::Range;

use super::activations::Quantized;
use super::wide::Tiles;
use super::{Int16Rows, Mxfp4Rows, Unit};
use crate::weight::Int8View;

pub(super) use dot::NeonDot;

/// 32-bit lanes of a register.
const WIDTH: usize = 4;

/// NEON.
pub(super) struct Neon;

impl Unit for Neon {
    const FEW_MXFP4: usize = 8;
    const FEW_INT8: usize = 6;
    const TILE: usize = 4;

    unsafe fn quantize(values: &[f32]) -> Quantized {
        quantize::quantize(values)
    }

    unsafe fn multiply_mxfp4(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { narrow::multiply(weight, rows, x, out) }
    }

    unsafe fn multiply_int8(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { narrow_int8::multiply(weight, rows, x, out) }
    }

    unsafe fn add_tiles(tiles: Tiles, parts: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { tile::add::<false>(tiles, parts) }
    }
}

/// The values of 32 codes of MXFP4, in halves: of the lower nibbles and of the upper ones.
#[inline]
#[target_feature(enable = "neon")]
fn decode(codes: uint8x16_t) -> [int8x16_t; 2] {
    const HALVES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
    // SAFETY: 16 bytes fill a register.
    let halves = unsafe { vld1q_s8(HALVES.as_ptr()) };
    [vqtbl1q_s8(halves, vandq_u8(codes, vdupq_n_u8(15))), vqtbl1q_s8(halves, vshrq_n_u8::<4>(codes))]
}

/// The lower and the upper byte of each 16 bits as 16-bit integers.
#[inline]
#[target_feature(enable = "neon")]
fn widen(bytes: int8x16_t) -> [int16x8_t; 2] {
    let words = vreinterpretq_s16_s8(bytes);
    [vshrq_n_s16::<8>(vshlq_n_s16::<8>(words)), vshrq_n_s16::<8>(words)]
}

/// As [`widen`], with two more bits from the lowest of `low`, which moves on to those of the next pairs.
#[inline]
#[target_feature(enable = "neon")]
fn widen_with(bytes: int8x16_t, low: &mut uint16x8_t) -> [int16x8_t; 2] {
    let words = vreinterpretq_s16_s8(bytes);
    let ones = vdupq_n_u16(3);
    let select = |low: uint16x8_t, words: int16x8_t| vbslq_s16(ones, vreinterpretq_s16_u16(low), words);
    let even = select(*low, vshrq_n_s16::<6>(vshlq_n_s16::<8>(words)));
    let next = vshrq_n_u16::<2>(*low);
    let odd = select(next, vshrq_n_s16::<6>(words));
    *low = vshrq_n_u16::<2>(next);
    [even, odd]
}

/// The 16-bit integers of 32 codes, in halves: those that a shift by `s` nibbles brings to the bottom of each 16 bits, for
/// `s` from 0 to 3.
#[inline]
#[target_feature(enable = "neon")]
fn decode_by_shift(codes: uint8x16_t) -> [int16x8_t; 4] {
    let [even, odd] = decode(codes);
    let ([even_low, even_high], [odd_low, odd_high]) = (widen(even), widen(odd));
    [even_low, odd_low, even_high, odd_high]
}
