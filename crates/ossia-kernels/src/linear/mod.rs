//! Dense linear layer: `y = x @ weight^T + bias`.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::cpu::{for_each_task, num_threads};
use crate::matmul::{PackedActivations, multiply};
use crate::weight::Matrix;
use crate::{ComputeType, KernelError, Result};

/// `y = x @ weight^T + bias` over f32 activations.
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Arc<Matrix>,
    bias: Option<Vec<f32>>,
    compute: ComputeType,
}

impl Linear {
    /// A layer of `weight` `[out_features, in_features]` and `bias` `[out_features]`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if the bias has another length than the weight has rows.
    pub fn new(weight: Arc<Matrix>, bias: Option<Vec<f32>>, compute: ComputeType) -> Result<Self> {
        if let Some(bias) = bias.as_ref().filter(|b| b.len() != weight.rows()) {
            return Err(KernelError::Shape {
                op: "linear",
                what: "bias",
                expected: format!("[{}]", weight.rows()),
                found: vec![bias.len()],
            });
        }
        Ok(Self {
            weight,
            bias,
            compute,
        })
    }

    /// The weight matrix.
    pub fn weight(&self) -> &Arc<Matrix> {
        &self.weight
    }

    /// `x` `[n, in_features]` f32 to `[n, out_features]` f32.
    ///
    /// # Errors
    /// [`KernelError::Shape`] or [`KernelError::ActivationDType`] if `x` is anything else.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        crate::cpu::check_activation("linear", "x", x, self.weight.cols())?;
        Ok(x.contiguous()?.apply_op1_no_bwd(self)?)
    }

    /// `x` `[n, in_features]` to `[n, out_features]`.
    fn forward_slice(&self, x: &[f32]) -> Vec<f32> {
        let (rows, cols) = (self.weight.rows(), self.weight.cols());
        let num_tokens = x.len() / cols.max(1);
        let packed = PackedActivations::pack(self.compute, x, cols, 0..num_tokens);
        let y = std::sync::Mutex::new(vec![0f32; num_tokens * rows]);
        let chunk = 64;
        for_each_task(rows.div_ceil(chunk), num_threads(), |task| {
            let range = task * chunk..((task + 1) * chunk).min(rows);
            let mut out = vec![0f32; range.len() * num_tokens];
            multiply(self.weight.view(), range.clone(), &packed, &mut out);
            let mut y = y.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            for (r, row) in range.enumerate() {
                let bias = self.bias.as_ref().map_or(0.0, |b| b[row]);
                for t in 0..num_tokens {
                    y[t * rows + row] = out[r * num_tokens + t] + bias;
                }
            }
        });
        y.into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let y = self.forward_slice(crate::cpu::contiguous_f32(x, l)?);
        let shape = Shape::from((l.dims()[0], self.weight.rows()));
        Ok((CpuStorage::F32(y), shape))
    }
}
