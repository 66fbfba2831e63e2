//! Rows of the embedding matrix as f32.

mod cpu;
#[cfg(any(test, feature = "cuda"))]
mod cuda;

use std::sync::Arc;

use candle_core::{DType, Tensor};

use crate::backend::{Backend, Form};
use crate::weight::Matrix;
use crate::{DeviceInput, KernelError, Result, TokenIds};

/// The embedding matrix `[vocab, hidden]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    weight: Weight,
    vocab_size: usize,
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Weight {
    Cpu(Arc<Matrix>),
    /// `[vocab, hidden]` on the device.
    Generic(Tensor),
    /// The same in bf16, read by our kernel.
    #[cfg(feature = "cuda")]
    Cuda(Tensor, Arc<crate::cuda::Kernels>),
}

impl Embedding {
    pub(crate) fn new(backend: &Backend, weight: Arc<Matrix>) -> Result<Self> {
        let vocab_size = weight.rows();
        let weight = match backend.form() {
            Form::Cpu => Weight::Cpu(weight),
            Form::Generic => Weight::Generic(backend.matrix(&weight)?),
            // candle's gather reads each row once, as ours would.
            #[cfg(feature = "metal")]
            Form::Metal(_) => Weight::Generic(backend.matrix(&weight)?),
            #[cfg(feature = "cuda")]
            Form::Cuda(kernels) => match backend.matrix(&weight)? {
                weight if weight.dtype() == DType::BF16 => Weight::Cuda(weight, kernels.clone()),
                weight => Weight::Generic(weight),
            },
        };
        Ok(Self { weight, vocab_size, backend: backend.clone() })
    }

    /// `ids` `[n]` to `[n, hidden]` f32.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if an id is not a row of the matrix.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        self.gather(&self.place(ids, &mut DeviceInput::default())?)
    }

    /// `ids` `[n]` where the matrix is, in the memory of `input`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] if an id is not a row of the matrix.
    pub fn place<'a>(&self, ids: &'a [u32], input: &'a mut DeviceInput) -> Result<TokenIds<'a>> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            return Err(KernelError::Shape {
                op: "embedding",
                what: "token id",
                expected: format!("below {}", self.vocab_size),
                found: vec![id as usize],
            });
        }
        let on_device = match &self.weight {
            Weight::Cpu(_) => None,
            Weight::Generic(_) => Some(input.place(&self.backend, ids)?),
            #[cfg(feature = "cuda")]
            Weight::Cuda(..) => Some(input.place(&self.backend, ids)?),
        };
        Ok(TokenIds { ids, on_device })
    }

    /// Rows of ids that were placed: `[n, hidden]` f32.
    ///
    /// # Errors
    /// [`KernelError::Candle`] if the device refuses the memory.
    pub fn gather(&self, ids: &TokenIds) -> Result<Tensor> {
        match (&self.weight, &ids.on_device) {
            (Weight::Cpu(weight), _) => cpu::embedding(weight, ids.ids),
            (Weight::Generic(weight), Some(ids)) => Ok(weight.index_select(ids, 0)?.to_dtype(DType::F32)?),
            #[cfg(feature = "cuda")]
            (Weight::Cuda(weight, kernels), Some(ids)) => cuda::embedding(kernels, weight, ids),
            _ => {
                let message = "the ids were placed by the embedding of another backend".to_owned();
                Err(candle_core::Error::Msg(message).into())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::WeightBytes;
    use candle_core::Device;

    #[test]
    fn picks_rows_and_refuses_others() {
        let bytes: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let weight = Arc::new(Matrix::new(WeightBytes::owned(bytes), DType::F32, 3, 2).unwrap());
        for backend in [Backend::cpu(), Backend::generic(&Device::Cpu)] {
            let embedding = backend.embedding(weight.clone()).unwrap();
            let rows = embedding.forward(&[2, 0]).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(rows, [[4.0, 5.0], [0.0, 1.0]]);
            assert_eq!(embedding.forward(&[]).unwrap().dims(), [0, 2]);
            assert!(embedding.forward(&[3]).is_err());
        }
    }
}
