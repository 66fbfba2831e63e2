//! The integer products with AVX-512 VNNI.

mod narrow;
mod narrow_int8;
mod panel;
mod quantize;
mod tile;

use std::arch::asm;
use std::arch::x86_64::__m512i;
use std::ops::Range;

use super::activations::Quantized;
use super::wide::Tiles;
use super::{Int16Rows, Mxfp4Rows, Unit};
use crate::weight::Int8View;

pub(super) use quantize::quantize;

/// AVX-512 F, BW, DQ, VL and VNNI.
pub(super) struct Avx512;

impl Unit for Avx512 {
    const FEW_MXFP4: usize = 12;
    const FEW_INT8: usize = 32;
    const TILE: usize = 6;

    #[inline]
    unsafe fn quantize(values: &[f32]) -> Quantized {
        // SAFETY: the trait's condition.
        unsafe { quantize(values) }
    }

    #[inline]
    unsafe fn quantize_tile(tokens: &[&[f32]], pairs: &mut [f32], half_steps: &mut [f32]) {
        // SAFETY: the trait's condition.
        unsafe { quantize::quantize_tile(tokens, pairs, half_steps) }
    }

    unsafe fn multiply_mxfp4(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { narrow::multiply(weight, rows, x, out) }
    }

    unsafe fn multiply_int8(weight: Int8View, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { narrow_int8::multiply(weight, rows, x, out) }
    }

    #[inline]
    unsafe fn add_tiles(tiles: Tiles, parts: &mut [f32]) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { tile::add(tiles, parts) }
    }

    #[inline]
    unsafe fn merge(parts: &[f32], out: &mut [f32]) {
        // SAFETY: the trait's condition.
        unsafe { tile::merge(parts, out) }
    }
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
