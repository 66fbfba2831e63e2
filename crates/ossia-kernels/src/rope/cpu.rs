//! Rotary position embedding on the CPU.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};

use crate::Result;
use crate::cpu::{SharedSlice, contiguous_f32, for_each_task, threads_for};

/// Rotates `x` `[n, heads, head_dim]` by `cos` and `sin` `[n, head_dim / 2]`; all f32.
pub(super) fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    Ok(x.contiguous()?.apply_op3_no_bwd(&cos.contiguous()?, &sin.contiguous()?, &Rope)?)
}

struct Rope;

impl CustomOp3 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        cos: &CpuStorage,
        cos_layout: &Layout,
        sin: &CpuStorage,
        sin_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous_f32(x, x_layout)?;
        let cos = contiguous_f32(cos, cos_layout)?;
        let sin = contiguous_f32(sin, sin_layout)?;
        let head_dim = x_layout.dims()[2].max(1);
        let token_len = (x_layout.dims()[1] * head_dim).max(1);
        let half = (head_dim / 2).max(1);
        let mut out = x.to_vec();
        let shared = SharedSlice::new(&mut out);
        for_each_task(x.len() / token_len, threads_for(x.len()), |token| {
            let angles = token * half..(token + 1) * half;
            // SAFETY: each task has its own token.
            let heads = unsafe { shared.range(token * token_len..(token + 1) * token_len) };
            for head in heads.chunks_mut(head_dim) {
                rotate(head, &cos[angles.clone()], &sin[angles.clone()]);
            }
        });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}
