//! The linear layer on the CPU: weights stay where they are mapped.

use std::mem::MaybeUninit;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use crate::cpu::{Scratch, SharedSlice, contiguous_f32, filled, for_each_task, threads_for};
use crate::matmul::{Matmul, multiply};
use crate::weight::Matrix;
use crate::{ComputeType, Isa, Result};

/// `y = x @ weight^T + bias` over f32 activations.
#[derive(Clone, Debug)]
pub(super) struct CpuLinear {
    weight: Arc<Matrix>,
    bias: Option<Vec<f32>>,
    matmul: Matmul,
}

impl CpuLinear {
    /// A layer on the best path of this processor.
    pub(super) fn new(weight: Arc<Matrix>, bias: Option<Vec<f32>>, compute: ComputeType) -> Self {
        Self { weight, bias, matmul: Matmul { isa: Isa::detect(), compute } }
    }

    /// The same layer on another path.
    pub(super) fn on(mut self, isa: Isa) -> Result<Self> {
        self.matmul.isa = isa.checked()?;
        Ok(self)
    }

    /// `x` `[n, in_features]` f32 to `[n, out_features]` f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.contiguous()?.apply_op1_no_bwd(self)?)
    }

    /// `x` `[num_tokens, in_features]` to `[num_tokens, out_features]`.
    fn forward_slice(&self, x: &[f32], num_tokens: usize) -> Vec<f32> {
        let weight = self.weight.view();
        let packed = self.matmul.pack(weight, x, 0..num_tokens);
        let threads = threads_for(weight.rows * weight.cols * num_tokens.div_ceil(8));
        let step = self.matmul.rows_per_task(weight, weight.rows, num_tokens);
        let multiply_rows = |task: usize, y: &SharedSlice<MaybeUninit<f32>>| {
            let first = task * step;
            let rows = first..(first + step).min(weight.rows);
            let mut part = Scratch::new(num_tokens * rows.len());
            multiply(weight, rows.clone(), &packed, &mut part);
            for (t, part) in part.chunks_exact(rows.len()).enumerate() {
                let at = t * weight.rows;
                // SAFETY: each task has its own rows, each token its own part of `y`.
                let y = unsafe { y.range(at + rows.start..at + rows.end) };
                self.add_bias(part, rows.start, y);
            }
        };
        // SAFETY: every row of every token is written.
        unsafe {
            filled(num_tokens * weight.rows, |y| {
                for_each_task(weight.rows.div_ceil(step), threads, |task| multiply_rows(task, y));
            })
        }
    }

    /// `y = part + bias[first_row ..]`.
    fn add_bias(&self, part: &[f32], first_row: usize, y: &mut [MaybeUninit<f32>]) {
        match &self.bias {
            None => {
                y.write_copy_of_slice(part);
            }
            Some(bias) => {
                for ((y, v), b) in y.iter_mut().zip(part).zip(&bias[first_row..]) {
                    y.write(v + b);
                }
            }
        }
    }
}

impl CustomOp1 for CpuLinear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let num_tokens = l.dims()[0];
        let y = self.forward_slice(contiguous_f32(x, l)?, num_tokens);
        let shape = Shape::from((num_tokens, self.weight.rows()));
        Ok((CpuStorage::F32(y), shape))
    }
}
