//! Rows of an embedding matrix that stays where it is mapped.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::weight::Matrix;

/// `weight` `[vocab, hidden]` and `ids` `[n]`, each below `vocab`, to `[n, hidden]` f32. Reads only the rows asked for.
pub(super) fn embedding(weight: &Matrix, ids: &[u32]) -> Result<Tensor> {
    let hidden = weight.cols();
    let mut out = vec![0f32; ids.len() * hidden];
    for (&id, row) in ids.iter().zip(out.chunks_mut(hidden)) {
        weight.copy_row_f32(id as usize, row);
    }
    Ok(Tensor::from_vec(out, (ids.len(), hidden), &Device::Cpu)?)
}
