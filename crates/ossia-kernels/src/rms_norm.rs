//! Root-mean-square normalisation in f32.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use crate::Result;
use crate::cpu::{SharedSlice, check_activation, contiguous_f32, for_each_task, threads_for};

/// Partial sums of the squares: fixed, so that the bits do not depend on the instruction set.
const NUM_SUMS: usize = 16;

/// `weight * x / sqrt(mean(x^2) + eps)` per row: `x` `[n, width]`, `weight` `[width]`, both f32.
///
/// # Errors
/// [`crate::KernelError::Shape`] or [`crate::KernelError::ActivationDType`] if an argument is anything else.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    let width = weight.elem_count();
    check_activation("rms_norm", "x", x, width)?;
    check_activation("rms_norm", "weight", &weight.reshape((1, width))?, width)?;
    Ok(x.contiguous()?.apply_op2_no_bwd(&weight.contiguous()?, &RmsNorm { eps })?)
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous_f32(x, x_layout)?;
        let weight = contiguous_f32(weight, weight_layout)?;
        let mut out = vec![0f32; x.len()];
        let width = weight.len().max(1);
        let shared = SharedSlice::new(&mut out);
        for_each_task(x.len() / width, threads_for(x.len()), |row| {
            let row = row * width..(row + 1) * width;
            // SAFETY: each task has its own row.
            normalize_row(&x[row.clone()], weight, self.eps, unsafe { shared.range(row) });
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

fn normalize_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        *out = weight * (x * scale);
    }
}

fn sum_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0f32; NUM_SUMS];
    let (chunks, rest) = x.as_chunks::<NUM_SUMS>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x * x;
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += x * x;
    }
    sums.iter().sum()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn agrees_with_the_definition() {
        for width in [1usize, 15, 16, 17, 2880] {
            let rows = 19;
            let x: Vec<f32> = (0..rows * width).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
            let weight: Vec<f32> = (0..width).map(|i| 1.0 + (i % 7) as f32 / 10.0).collect();
            let out = rms_norm(
                &Tensor::from_slice(&x, (rows, width), &Device::Cpu).unwrap(),
                &Tensor::from_slice(&weight, width, &Device::Cpu).unwrap(),
                1e-5,
            );
            let out = out.unwrap().to_vec2::<f32>().unwrap();
            for (row, x) in out.iter().zip(x.chunks(width)) {
                let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / width as f64;
                for ((&y, &x), &w) in row.iter().zip(x).zip(&weight) {
                    let expected = f64::from(w) * f64::from(x) / (mean + 1e-5).sqrt();
                    assert!((f64::from(y) - expected).abs() < 1e-5, "{y} {expected}");
                }
            }
        }
    }

    #[test]
    fn refuses_another_width() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let weight = Tensor::zeros(4, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(rms_norm(&x, &weight, 1e-5).is_err());
    }
}
