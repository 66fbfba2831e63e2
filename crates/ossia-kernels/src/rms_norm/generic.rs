//! RMSNorm in candle's own ops.

use candle_core::{D, Tensor};

use crate::Result;

/// `weight * x / sqrt(mean(x^2) + eps)` per row: `x` `[n, width]`, `weight` `[width]`, both f32.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?; // [n, 1]
    let scale = (mean + f64::from(eps))?.sqrt()?.recip()?;
    Ok(x.broadcast_mul(&scale)?.broadcast_mul(weight)?)
}
