//! Turns stored tensors into matrices, vectors and experts, checking each against what the model expects.

use std::hint::black_box;
use std::sync::Arc;

use candle_core::DType;
use half::{bf16, f16};
use ossia_kernels::{ExpertWeights, Matrix, WeightBytes};
use rayon::prelude::*;

use super::extent;
use super::layout::MXFP4_BLOCK;
use super::{Extent, LoadProgress, RawTensor, WeightSource};
use crate::ModelError;

/// Types that dense weights may have.
const DENSE: &[&str] = &["BF16", "F32", "F16"];

/// Bytes read between two reports of progress.
const PROGRESS_BYTES: usize = 256 << 20;

/// Takes tensors from a source by name.
pub(crate) struct Loader<'a> {
    source: &'a dyn WeightSource,
    progress: &'a mut dyn FnMut(LoadProgress),
    /// Of the tensors done with, whole.
    seen_bytes: u64,
    /// Of the parts of them that were asked for.
    loaded_bytes: u64,
}

impl<'a> Loader<'a> {
    /// A loader that reports to `progress`.
    pub(crate) fn new(source: &'a dyn WeightSource, progress: &'a mut dyn FnMut(LoadProgress)) -> Self {
        Self { source, progress, seen_bytes: 0, loaded_bytes: 0 }
    }

    /// Bytes of what was taken so far, as stored.
    pub(crate) fn loaded_bytes(&self) -> u64 {
        self.loaded_bytes
    }

    /// A dense matrix `[rows, cols]`: bf16 and f32 stay where they are, f16 becomes f32.
    pub(crate) fn matrix(
        &mut self,
        name: &str,
        rows: impl Into<Extent>,
        cols: impl Into<Extent>,
    ) -> Result<Arc<Matrix>, ModelError> {
        let (rows, cols) = (rows.into(), cols.into());
        let (num_rows, num_cols) = (rows.len(), cols.len());
        let raw = self.take(name, DENSE, &[rows, cols])?;
        let (bytes, dtype) = match raw.dtype.as_str() {
            "BF16" => (raw.bytes, DType::BF16),
            "F32" => (raw.bytes, DType::F32),
            _ => {
                let widened = to_f32(&raw).into_iter().flat_map(f32::to_le_bytes).collect();
                (WeightBytes::owned(widened), DType::F32)
            }
        };
        Ok(Arc::new(Matrix::new(bytes, dtype, num_rows, num_cols)?))
    }

    /// A small dense tensor as f32, flattened.
    pub(crate) fn vector<const N: usize>(
        &mut self,
        name: &str,
        shape: [impl Into<Extent>; N],
    ) -> Result<Vec<f32>, ModelError> {
        Ok(to_f32(&self.take(name, DENSE, &shape.map(Into::into))?))
    }

    /// Expert matrices `[num_experts, rows, cols]`: MXFP4 (`{name}_blocks`, `{name}_scales`) or, as bf16
    /// fine-tunes store them, `{name}` `[num_experts, cols, rows]`.
    pub(crate) fn experts(
        &mut self,
        name: &str,
        num_experts: usize,
        rows: impl Into<Extent>,
        cols: impl Into<Extent>,
    ) -> Result<ExpertWeights, ModelError> {
        let (experts, rows, cols) = (Extent::from(num_experts), rows.into(), cols.into());
        let (num_rows, num_cols) = (rows.len(), cols.len());
        let blocks = format!("{name}_blocks");
        if self.source.tensor(name)?.is_some() && self.source.tensor(&blocks)?.is_none() {
            let raw = self.take(name, &["BF16"], &[experts, cols, rows])?;
            return Ok(ExpertWeights::bf16(raw.bytes, num_experts, num_rows, num_cols)?);
        }
        let shape = [experts, rows, cols.in_blocks(MXFP4_BLOCK), Extent::from(MXFP4_BLOCK / 2)];
        let blocks = self.take(&blocks, &["U8"], &shape)?;
        let scales = self.take(&format!("{name}_scales"), &["U8"], &shape[..3])?;
        Ok(ExpertWeights::mxfp4(blocks.bytes, scales.bytes, num_experts, num_rows, num_cols)?)
    }

    /// The part of a tensor that `dims` ask for, if the whole is as expected; its pages are in memory afterwards.
    fn take(&mut self, name: &str, dtypes: &[&str], dims: &[Extent]) -> Result<RawTensor, ModelError> {
        let shape: Vec<usize> = dims.iter().map(Extent::size).collect();
        let expected = || format!("{} {shape:?}", dtypes.join(" or "));
        let Some(mut raw) = self.source.tensor(name)? else {
            let path = self.source.place_of(name);
            return Err(ModelError::MissingTensor { tensor: name.to_owned(), path, expected: expected() });
        };
        if !dtypes.contains(&raw.dtype.as_str()) || raw.shape != shape {
            return Err(ModelError::WrongTensor {
                tensor: name.to_owned(),
                expected: expected(),
                found: format!("{} {:?}", raw.dtype, raw.shape),
                path: raw.path,
            });
        }
        let whole_bytes = raw.bytes.len();
        let element_bytes = match raw.dtype.as_str() {
            "F32" => 4,
            "BF16" | "F16" => 2,
            _ => 1,
        };
        // Fewer bytes than the shape says are left to the check of whoever takes them.
        if let Some(part) = extent::take(&raw.bytes, dims, element_bytes) {
            raw.bytes = part;
            raw.shape = dims.iter().map(Extent::len).collect();
        }
        for chunk in raw.bytes.as_slice().chunks(PROGRESS_BYTES) {
            touch(chunk);
            self.loaded_bytes += chunk.len() as u64;
            self.report(chunk.len());
        }
        self.report(whole_bytes - raw.bytes.len());
        Ok(raw)
    }

    /// Says that so many more bytes are done with.
    fn report(&mut self, bytes: usize) {
        self.seen_bytes += bytes as u64;
        let total_bytes = self.source.total_bytes();
        (self.progress)(LoadProgress { loaded_bytes: self.seen_bytes, total_bytes });
    }
}

/// Reads a byte of each page, so that loading waits for the disk and the first request does not.
fn touch(bytes: &[u8]) {
    const PAGE_BYTES: usize = 4096;
    bytes.par_chunks(1 << 20).for_each(|chunk| {
        let sum = chunk.iter().step_by(PAGE_BYTES).fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        black_box(sum);
    });
}

/// Exact widening of a bf16, f16 or f32 tensor.
fn to_f32(raw: &RawTensor) -> Vec<f32> {
    let bytes = raw.bytes.as_slice();
    match raw.dtype.as_str() {
        "BF16" => bytes.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        "F16" => bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}
