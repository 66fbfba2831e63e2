//! Activations to block floating point, in plain Rust: a small part of any product.

use super::super::activations::{FRACTION_BITS, Quantized, exponent, pow2};
use super::super::{BLOCK, PAIRS};

/// As [`Unit::quantize`](super::super::Unit::quantize).
pub(super) fn quantize(values: &[f32]) -> Quantized {
    let mut x = [0f32; BLOCK];
    x[..values.len()].copy_from_slice(values);
    if !x.iter().all(|x| x.is_finite()) {
        return ([0; PAIRS], f32::NAN);
    }
    let exponent = exponent(x.iter().fold(0f32, |max, x| max.max(x.abs())));
    let factor = pow2(FRACTION_BITS - exponent);
    // Saturates the values that round up to 2^15.
    let q = x.map(|x| (x * factor).round_ties_even() as i16);
    let pair = |at: usize| {
        let (s, j) = (at / 4, at % 4);
        i32::from(q[8 * j + s] as u16) | i32::from(q[8 * j + s + 4]) << 16
    };
    (std::array::from_fn(pair), pow2(exponent - FRACTION_BITS - 1))
}
