//! Unpacking MXFP4 in candle's own ops: each byte and each scale is an index into a table.

use candle_core::{DType, Tensor};

use super::{BLOCK_LEN, E2M1, decode_scale};
use crate::Result;
use crate::backend::Backend;

/// The packed matrices of all experts of a projection, on the device.
#[derive(Clone, Debug)]
pub(crate) struct GenericMxfp4 {
    /// `[num_experts, rows * cols / 2]` u8.
    pub(crate) blocks: Tensor,
    /// `[num_experts, rows * cols / 32]` u8.
    pub(crate) scales: Tensor,
    /// Both values of each byte, the low nibble's first, `[256, 2]` f32.
    values_of_byte: Tensor,
    /// The factor of each scale, `[256, 1]` f32.
    factor_of_scale: Tensor,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl GenericMxfp4 {
    /// Copies `blocks` and `scales` of matrices `[num_experts, rows, cols]` to the device; their lengths were checked.
    pub(crate) fn new(
        backend: &Backend,
        blocks: &[u8],
        scales: &[u8],
        [num_experts, rows, cols]: [usize; 3],
    ) -> Result<Self> {
        let signed =
            |code: u8| if code & 8 == 0 { E2M1[usize::from(code)] } else { -E2M1[usize::from(code & 7)] };
        let values: Vec<f32> = (0..=255u8).flat_map(|byte| [signed(byte & 15), signed(byte >> 4)]).collect();
        let factors: Vec<f32> = (0..=255u8).map(decode_scale).collect();
        Ok(Self {
            blocks: backend.upload(blocks, DType::U8, &[num_experts, rows * cols / 2])?,
            scales: backend.upload(scales, DType::U8, &[num_experts, rows * cols / BLOCK_LEN])?,
            values_of_byte: backend.vector(&values)?.reshape((256, 2))?,
            factor_of_scale: backend.vector(&factors)?.reshape((256, 1))?,
            rows,
            cols,
        })
    }

    /// The matrix of one expert, `[rows, cols]` f32.
    pub(crate) fn expert(&self, expert: usize) -> Result<Tensor> {
        // candle takes the largest number of an index's type for "no row": 255 would become zero.
        let index = |codes: &Tensor| codes.get(expert)?.to_dtype(DType::U32);
        let values = self.values_of_byte.index_select(&index(&self.blocks)?, 0)?;
        let factors = self.factor_of_scale.index_select(&index(&self.scales)?, 0)?; // [blocks, 1]
        let values = values.reshape((factors.dim(0)?, BLOCK_LEN))?.broadcast_mul(&factors)?;
        Ok(values.reshape((self.rows, self.cols))?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn every_code_and_scale_is_unpacked_exactly() {
        // Two experts: all bytes under 16 scales each, 2 rows of 16 blocks at a time.
        for first_scale in (0..=255u8).step_by(32) {
            let blocks: Vec<u8> =
                (0..1024usize).map(|at| (at * 7 + usize::from(first_scale)) as u8).collect();
            let scales: Vec<u8> = (0..64).map(|at| first_scale.saturating_add(at / 2)).collect();
            let packed =
                GenericMxfp4::new(&Backend::generic(&Device::Cpu), &blocks, &scales, [2, 2, 512]).unwrap();
            for expert in 0..2 {
                let found = packed.expert(expert).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (at, found) in found.iter().enumerate() {
                    let at = expert * 1024 + at;
                    let expected = super::super::decode(super::super::nibble(&blocks, at), scales[at / 32]);
                    // Zero times the scale that stands for "not a number" is not a number either way.
                    assert!(*found == expected || found.is_nan() && expected.is_nan(), "{found} {expected}");
                }
            }
        }
    }
}
