//! A dense matrix in checkpoint layout.

use candle_core::DType;

use super::{Format, MatrixView, WeightBytes, check_len};
use crate::{KernelError, Result};

/// Dense matrix `[rows = out_features, cols = in_features]`, row-major, bf16 or f32, little-endian.
#[derive(Clone, Debug)]
pub struct Matrix {
    bytes: WeightBytes,
    dtype: DType,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// Takes the bytes of a `[rows, cols]` matrix.
    ///
    /// # Errors
    /// [`KernelError::WeightDType`] unless `dtype` is bf16 or f32, [`KernelError::WeightLength`]
    /// unless the bytes are exactly those of the shape.
    pub fn new(bytes: WeightBytes, dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        if !matches!(dtype, DType::BF16 | DType::F32) {
            return Err(KernelError::WeightDType { found: dtype });
        }
        check_len("matrix", &bytes, &[rows, cols], dtype.size_in_bytes())?;
        Ok(Self { bytes, dtype, rows, cols })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The bytes, row-major.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.as_slice()
    }

    /// Row `row` as f32 into `out` of [`Self::cols`] elements. Both indices are the caller's to keep in range.
    pub fn copy_row_f32(&self, row: usize, out: &mut [f32]) {
        for (col, value) in out.iter_mut().enumerate() {
            *value = self.view().get(row, col);
        }
    }

    pub(crate) fn view(&self) -> MatrixView<'_> {
        let bytes = self.bytes.as_slice();
        let format = match self.dtype {
            DType::F32 => Format::F32(bytes),
            _ => Format::Bf16(bytes),
        };
        MatrixView { format, rows: self.rows, cols: self.cols }
    }
}
