//! The matrices of all experts of one layer and projection.

use super::{Format, MatrixView, WeightBytes, check_len};
use crate::mxfp4::BLOCK_LEN;
use crate::{KernelError, Result};

/// One matrix `[rows = out_features, cols = in_features]` per expert, in checkpoint layout.
#[derive(Clone, Debug)]
pub struct ExpertWeights {
    storage: Storage,
    num_experts: usize,
    rows: usize,
    cols: usize,
}

#[derive(Clone, Debug)]
enum Storage {
    Mxfp4 { blocks: WeightBytes, scales: WeightBytes },
    Bf16(WeightBytes),
}

/// The bytes of all experts, for a device that keeps its own copy.
pub(crate) enum ExpertParts<'a> {
    /// `[num_experts, rows, cols / 32, 16]` and `[num_experts, rows, cols / 32]`.
    Mxfp4 { blocks: &'a [u8], scales: &'a [u8] },
    /// `[num_experts, cols, rows]`.
    Bf16(&'a [u8]),
}

impl ExpertWeights {
    /// The largest of the MXFP4 scales, as stored; `None` for other weights.
    #[cfg(feature = "cuda")]
    pub(crate) fn largest_scale(&self) -> Option<u8> {
        match self.parts() {
            ExpertParts::Mxfp4 { scales, .. } => scales.iter().copied().max(),
            ExpertParts::Bf16(_) => None,
        }
    }

    /// MXFP4: `blocks` `[num_experts, rows, cols / 32, 16]` with the low nibble first,
    /// `scales` `[num_experts, rows, cols / 32]` e8m0.
    ///
    /// # Errors
    /// [`KernelError::PartialBlock`] unless `cols` is a multiple of 32,
    /// [`KernelError::WeightLength`] unless both lengths match the shape.
    pub fn mxfp4(
        blocks: WeightBytes,
        scales: WeightBytes,
        num_experts: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Self> {
        if !cols.is_multiple_of(BLOCK_LEN) {
            return Err(KernelError::PartialBlock { cols });
        }
        let num_blocks = cols / BLOCK_LEN;
        check_len("MXFP4 blocks", &blocks, &[num_experts, rows, num_blocks, BLOCK_LEN / 2], 1)?;
        check_len("MXFP4 scales", &scales, &[num_experts, rows, num_blocks], 1)?;
        Ok(Self { storage: Storage::Mxfp4 { blocks, scales }, num_experts, rows, cols })
    }

    /// bf16 as bf16 checkpoints store experts: `[num_experts, cols = in_features, rows = out_features]`,
    /// used as `x @ W`.
    ///
    /// # Errors
    /// [`KernelError::WeightLength`] unless the length matches the shape.
    pub fn bf16(bytes: WeightBytes, num_experts: usize, rows: usize, cols: usize) -> Result<Self> {
        check_len("bf16 experts", &bytes, &[num_experts, cols, rows], 2)?;
        Ok(Self { storage: Storage::Bf16(bytes), num_experts, rows, cols })
    }

    /// Number of experts.
    pub fn num_experts(&self) -> usize {
        self.num_experts
    }

    /// Output features of each expert.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features of each expert.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The bytes of all experts.
    pub(crate) fn parts(&self) -> ExpertParts<'_> {
        match &self.storage {
            Storage::Mxfp4 { blocks, scales } => {
                ExpertParts::Mxfp4 { blocks: blocks.as_slice(), scales: scales.as_slice() }
            }
            Storage::Bf16(bytes) => ExpertParts::Bf16(bytes.as_slice()),
        }
    }

    /// The matrix of one expert; `expert` is the caller's to keep in range.
    pub(crate) fn expert(&self, expert: usize) -> MatrixView<'_> {
        let slice = |bytes: &'_ WeightBytes| -> std::ops::Range<usize> {
            let len = bytes.len() / self.num_experts;
            expert * len..(expert + 1) * len
        };
        let format = match &self.storage {
            Storage::Mxfp4 { blocks, scales } => Format::Mxfp4 {
                blocks: &blocks.as_slice()[slice(blocks)],
                scales: &scales.as_slice()[slice(scales)],
            },
            Storage::Bf16(bytes) => Format::Bf16Transposed(&bytes.as_slice()[slice(bytes)]),
        };
        MatrixView { format, rows: self.rows, cols: self.cols }
    }
}
