//! The linear layer in candle's own ops.

use candle_core::{DType, Tensor};

use crate::backend::Backend;
use crate::weight::Matrix;
use crate::{ComputeType, Result};

/// A weight on the device, in the type in which it is multiplied.
#[derive(Clone, Debug)]
pub(super) struct GenericLinear {
    /// `[out_features, in_features]`.
    pub(super) weight: Tensor,
    /// `[out_features]` f32.
    pub(super) bias: Option<Tensor>,
    compute: ComputeType,
}

impl GenericLinear {
    /// Copies the weight to the device; for f32 activations it is widened there.
    pub(super) fn new(
        backend: &Backend,
        weight: &Matrix,
        bias: Option<&[f32]>,
        compute: ComputeType,
    ) -> Result<Self> {
        let stored = backend.matrix(weight)?;
        let weight = match compute {
            ComputeType::F32 => stored.to_dtype(DType::F32)?,
            ComputeType::Bf16 => stored,
        };
        Ok(Self { weight, bias: backend.optional_vector(bias)?, compute })
    }

    /// A layer of tensors that are on the device.
    #[cfg(feature = "metal")]
    pub(super) fn of(weight: Tensor, bias: Option<Tensor>, compute: ComputeType) -> Self {
        Self { weight, bias, compute }
    }

    /// `x` `[n, in_features]` f32 to `[n, out_features]` f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = multiply(x, &self.weight, self.compute)?;
        match &self.bias {
            Some(bias) => Ok(y.broadcast_add(bias)?),
            None => Ok(y),
        }
    }
}

/// `x` `[n, cols]` f32 times `weight` `[rows, cols]` transposed, `[n, rows]` f32. For bf16 activations of a bf16 weight
/// the device multiplies in bf16, which rounds the products' sums to bf16 too.
pub(crate) fn multiply(x: &Tensor, weight: &Tensor, compute: ComputeType) -> Result<Tensor> {
    let x = match compute {
        ComputeType::F32 => x.clone(),
        ComputeType::Bf16 => x.to_dtype(DType::BF16)?,
    };
    let x = x.to_dtype(weight.dtype())?;
    Ok(x.matmul(&weight.t()?)?.to_dtype(DType::F32)?)
}
