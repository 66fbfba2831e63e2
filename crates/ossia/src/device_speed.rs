//! What a device can do at best, in candle's own ops: the denominators of what is measured on it.

use std::time::Instant;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};

/// What a copy within the device's memory reaches, bytes read and written, per second.
pub(crate) fn copy_bytes_per_s(device: &Device) -> Result<f64> {
    let len = if device.is_cpu() { 64 << 20 } else { 1 << 30 };
    let bytes = Tensor::zeros(len, DType::U8, device)?;
    Ok(2.0 * len as f64 / fastest(device, || bytes.copy())?)
}

/// What a bf16 matrix product reaches, floating-point operations per second.
pub(crate) fn bf16_matmul_flops(device: &Device) -> Result<f64> {
    // The CPU would need minutes for what a GPU does in milliseconds.
    let size = if device.is_cpu() { 512 } else { 8192 };
    let matrix = Tensor::rand(-1f32, 1.0, (size, size), device)?.to_dtype(DType::BF16)?;
    Ok(2.0 * (size as f64).powi(3) / fastest(device, || matrix.matmul(&matrix))?)
}

/// Seconds of the fastest of ten calls.
fn fastest<T>(device: &Device, mut run: impl FnMut() -> candle_core::Result<T>) -> Result<f64> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        device.synchronize()?;
        let started = Instant::now();
        run()?;
        device.synchronize()?;
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}
