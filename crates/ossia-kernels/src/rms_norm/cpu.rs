//! RMSNorm on the CPU.

use std::mem::MaybeUninit;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use crate::Result;
use crate::cpu::{SharedSlice, contiguous_f32, filled, for_each_task, threads_for};

/// Partial sums of the squares: fixed, so that the bits do not depend on the instruction set.
const NUM_SUMS: usize = 16;

/// `weight * x / sqrt(mean(x^2) + eps)` per row: `x` `[n, width]`, `weight` `[width]`, both f32.
pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
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
        let width = weight.len().max(1);
        let normalize = |row: usize, out: &SharedSlice<MaybeUninit<f32>>| {
            let row = row * width..(row + 1) * width;
            // SAFETY: each task has its own row.
            normalize_row(&x[row.clone()], weight, self.eps, unsafe { out.range(row) });
        };
        // SAFETY: rows are whole, and each is written.
        let out = unsafe {
            filled(x.len(), |out| {
                for_each_task(x.len() / width, threads_for(x.len()), |row| normalize(row, out));
            })
        };
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

fn normalize_row(x: &[f32], weight: &[f32], eps: f32, out: &mut [MaybeUninit<f32>]) {
    let scale = 1.0 / (sum_of_squares(x) / x.len() as f32 + eps).sqrt();
    for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
        out.write(weight * (x * scale));
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
