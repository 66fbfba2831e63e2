//! Rotary position embedding, half-split: dimension `i` turns with dimension `i + head_dim / 2`.

use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor};

use crate::cpu::{SharedSlice, contiguous_f32, for_each_task, threads_for};
use crate::{KernelError, Result};

/// Rotates `x` `[n, heads, head_dim]` by the angles of each token, `cos` and `sin` `[n, head_dim / 2]`; all f32.
///
/// # Errors
/// [`KernelError::Shape`] or [`KernelError::ActivationDType`] if an argument is anything else.
pub fn rope(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let [num_tokens, _, head_dim] = x.dims() else {
        return Err(shape_error("x", "[n, heads, head_dim]".to_owned(), x));
    };
    if !head_dim.is_multiple_of(2) {
        return Err(shape_error("x", "an even head_dim".to_owned(), x));
    }
    let expected = [*num_tokens, head_dim / 2];
    for (what, tensor) in [("cos", cos), ("sin", sin)] {
        if tensor.dims() != expected {
            return Err(shape_error(what, format!("{expected:?}"), tensor));
        }
    }
    for tensor in [x, cos, sin] {
        if tensor.dtype() != DType::F32 {
            return Err(KernelError::ActivationDType { op: "rope", found: tensor.dtype() });
        }
    }
    let (cos, sin) = (cos.contiguous()?, sin.contiguous()?);
    Ok(x.contiguous()?.apply_op3_no_bwd(&cos, &sin, &Rope)?)
}

fn shape_error(what: &'static str, expected: String, tensor: &Tensor) -> KernelError {
    KernelError::Shape { op: "rope", what, expected, found: tensor.dims().to_vec() }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn turns_pairs_half_a_head_apart() {
        let tensor = |data: &[f32], shape: &[usize]| Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
        // Token 0 does not turn; token 1 turns its first pair by 90 degrees.
        let x = tensor(&[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0], &[2, 1, 4]);
        let cos = tensor(&[1.0, 1.0, 0.0, 1.0], &[2, 2]);
        let sin = tensor(&[0.0, 0.0, 1.0, 0.0], &[2, 2]);
        let out = rope(&x, &cos, &sin).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(out, [1.0, 2.0, 3.0, 4.0, -3.0, 2.0, 1.0, 4.0]);
        assert!(rope(&x, &cos, &x).is_err());
    }
}
