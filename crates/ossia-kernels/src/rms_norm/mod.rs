//! Root-mean-square normalisation, alone or together with the residual sum before it.

mod cpu;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
mod generic;
#[cfg(any(test, feature = "metal"))]
mod metal;

use candle_core::Tensor;

use crate::backend::{Backend, Form};
use crate::cpu::check_activation;
use crate::{KernelError, Result};

/// `weight * x / sqrt(mean(x^2) + eps)` per row, all in f32.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    weight: Tensor,
    eps: f32,
    form: Form,
}

impl RmsNorm {
    pub(crate) fn new(backend: &Backend, weight: Vec<f32>, eps: f32) -> Result<Self> {
        Ok(Self { weight: backend.vector(&weight)?, eps, form: backend.form().clone() })
    }

    /// `x` `[n, width]` f32 to the same.
    ///
    /// # Errors
    /// [`crate::KernelError::Shape`] or [`crate::KernelError::ActivationDType`] if `x` is anything else.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check_activation("rms_norm", "x", x, self.weight.elem_count())?;
        match &self.form {
            Form::Cpu => cpu::rms_norm(x, &self.weight, self.eps),
            Form::Generic => generic::rms_norm(x, &self.weight, self.eps),
            #[cfg(feature = "cuda")]
            Form::Cuda(kernels) => cuda::rms_norm(kernels, x, &self.weight, self.eps),
            #[cfg(feature = "metal")]
            Form::Metal(kernels) => metal::rms_norm(kernels, x, &self.weight, self.eps),
        }
    }

    /// The sum of `x` and `residual`, both `[n, width]` f32, and what [`Self::forward`] makes of it.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn forward_sum(&self, x: &Tensor, residual: &Tensor) -> Result<(Tensor, Tensor)> {
        check_activation("rms_norm", "x", x, self.weight.elem_count())?;
        if residual.dims() != x.dims() {
            return Err(KernelError::Shape {
                op: "rms_norm",
                what: "residual",
                expected: format!("{:?}", x.dims()),
                found: residual.dims().to_vec(),
            });
        }
        match &self.form {
            #[cfg(feature = "cuda")]
            Form::Cuda(kernels) => cuda::rms_norm_sum(kernels, x, residual, &self.weight, self.eps),
            #[cfg(feature = "metal")]
            Form::Metal(kernels) => metal::rms_norm_sum(kernels, x, residual, &self.weight, self.eps),
            _ => {
                let sum = (x + residual)?;
                let normalized = self.forward(&sum)?;
                Ok((sum, normalized))
            }
        }
    }
}

/// The definition in f64.
#[cfg(test)]
fn expected(v: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let row = |v: &[f32]| -> Vec<f32> {
        let mean = v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / width as f64;
        let scale = 1.0 / (mean + f64::from(eps)).sqrt();
        v.iter().zip(weight).map(|(&v, &w)| (f64::from(v) * scale * f64::from(w)) as f32).collect()
    };
    v.chunks(width).flat_map(row).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn backends() -> [Backend; 2] {
        [Backend::cpu(), Backend::generic(&Device::Cpu)]
    }

    #[test]
    fn agrees_with_the_definition() {
        for (backend, width) in backends().iter().flat_map(|b| [1usize, 15, 16, 17, 2880].map(|w| (b, w))) {
            let rows = 19;
            let x: Vec<f32> = (0..rows * width).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
            let weight: Vec<f32> = (0..width).map(|i| 1.0 + (i % 7) as f32 / 10.0).collect();
            let norm = backend.rms_norm(weight.clone(), 1e-5).unwrap();
            let out = norm.forward(&Tensor::from_slice(&x, (rows, width), &Device::Cpu).unwrap());
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
        let x = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        for backend in backends() {
            assert!(backend.rms_norm(vec![0.0; 4], 1e-5).unwrap().forward(&x).is_err());
        }
    }
}
