//! The residual stream between layers: what a branch adds is summed by the norm that reads it next, in one op.

use candle_core::Tensor;
use ossia_kernels::RmsNorm;

use crate::ModelError;

/// A sum of `[num_tokens, hidden]` f32, of which the last part may not be added yet.
pub(super) struct ResidualStream {
    sum: Tensor,
    pending: Option<Tensor>,
}

impl ResidualStream {
    pub(super) fn new(embeddings: Tensor) -> Self {
        Self { sum: embeddings, pending: None }
    }

    /// The norm of the sum.
    pub(super) fn normalized(&mut self, norm: &RmsNorm) -> Result<Tensor, ModelError> {
        match self.pending.take() {
            None => Ok(norm.forward(&self.sum)?),
            Some(pending) => {
                let (sum, normalized) = norm.forward_sum(&self.sum, &pending)?;
                self.sum = sum;
                Ok(normalized)
            }
        }
    }

    /// Adds a branch, once the one before was read.
    pub(super) fn add(&mut self, branch: Tensor) -> Result<(), ModelError> {
        if let Some(pending) = self.pending.replace(branch) {
            self.sum = (&self.sum + pending)?;
        }
        Ok(())
    }

    /// Only these rows, in this order.
    pub(super) fn select(self, rows: &[u32]) -> Result<Self, ModelError> {
        if rows.iter().copied().eq(0..self.sum.dims()[0] as u32) {
            return Ok(self);
        }
        let rows = Tensor::new(rows, self.sum.device())?;
        let pending = self.pending.map(|pending| pending.index_select(&rows, 0)).transpose()?;
        Ok(Self { sum: self.sum.index_select(&rows, 0)?, pending })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;
    use ossia_kernels::Backend;

    fn tensor(values: [[f32; 2]; 3]) -> Tensor {
        Tensor::new(&values, &Device::Cpu).unwrap()
    }

    #[test]
    fn every_branch_is_added_once_and_rows_stay_together() {
        let norm = Backend::cpu().rms_norm(vec![1.0, 2.0], 1e-5).unwrap();
        let (a, b, c) = (
            tensor([[1.0, 2.0], [3.0, 4.0], [5.0, -6.0]]),
            tensor([[0.5, 0.0], [1.0, 1.0], [2.0, 2.0]]),
            tensor([[0.0, 8.0], [0.0, 1.0], [1.0, 1.0]]),
        );
        for rows in [vec![0, 1, 2], vec![2, 0], vec![1]] {
            let mut stream = ResidualStream::new(a.clone());
            stream.normalized(&norm).unwrap();
            stream.add(b.clone()).unwrap();
            stream.add(c.clone()).unwrap();
            let found = stream.select(&rows).unwrap().normalized(&norm).unwrap();
            let sum = ((&a + &b).unwrap() + &c).unwrap();
            let sum = sum.index_select(&Tensor::new(&rows[..], &Device::Cpu).unwrap(), 0).unwrap();
            let expected = norm.forward(&sum).unwrap();
            assert_eq!(found.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
        }
    }
}
