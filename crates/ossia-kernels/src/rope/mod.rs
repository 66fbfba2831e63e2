//! Rotary position embedding, half-split: dimension `i` turns with dimension `i + head_dim / 2`.

mod cpu;
mod generic;

use candle_core::{DType, Tensor};

use crate::backend::Form;
use crate::{KernelError, Result};

/// Rotates `x` `[n, heads, head_dim]` by the angles of each token, `cos` and `sin` `[n, head_dim / 2]`; all f32.
///
/// # Errors
/// [`KernelError::Shape`] or [`KernelError::ActivationDType`] if an argument is anything else.
pub(crate) fn rope(form: &Form, x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    check(x, cos, sin)?;
    match form {
        Form::Cpu => cpu::rope(x, cos, sin),
        _ => generic::rope(x, cos, sin),
    }
}

fn check(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<()> {
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
    Ok(())
}

fn shape_error(what: &'static str, expected: String, tensor: &Tensor) -> KernelError {
    KernelError::Shape { op: "rope", what, expected, found: tensor.dims().to_vec() }
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
        for form in [&Form::Cpu, &Form::Generic] {
            let out = rope(form, &x, &cos, &sin).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(out, [1.0, 2.0, 3.0, 4.0, -3.0, 2.0, 1.0, 4.0]);
            assert!(rope(form, &x, &cos, &x).is_err());
        }
    }
}
