//! Rows of the embedding matrix as f32.

use candle_core::{Device, Tensor};

use crate::weight::Matrix;
use crate::{KernelError, Result};

/// `weight` `[vocab, hidden]` and `ids` `[n]` to `[n, hidden]` f32. Reads only the rows asked for.
///
/// # Errors
/// [`KernelError::Shape`] if an id is not a row of `weight`.
pub fn embedding(weight: &Matrix, ids: &[u32]) -> Result<Tensor> {
    let hidden = weight.cols();
    let mut out = vec![0f32; ids.len() * hidden];
    for (&id, row) in ids.iter().zip(out.chunks_mut(hidden)) {
        if id as usize >= weight.rows() {
            return Err(KernelError::Shape {
                op: "embedding",
                what: "token id",
                expected: format!("below {}", weight.rows()),
                found: vec![id as usize],
            });
        }
        weight.copy_row_f32(id as usize, row);
    }
    Ok(Tensor::from_vec(out, (ids.len(), hidden), &Device::Cpu)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::WeightBytes;
    use candle_core::DType;

    #[test]
    fn picks_rows_and_refuses_others() {
        let bytes: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let weight = Matrix::new(WeightBytes::owned(bytes), DType::F32, 3, 2).unwrap();
        let rows = embedding(&weight, &[2, 0]).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(rows, [[4.0, 5.0], [0.0, 1.0]]);
        assert_eq!(embedding(&weight, &[]).unwrap().dims(), [0, 2]);
        assert!(embedding(&weight, &[3]).is_err());
    }
}
