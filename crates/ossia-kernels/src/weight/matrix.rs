//! A dense matrix in checkpoint layout, or rounded to 8 or 10 bits.

use candle_core::DType;

use super::int8::{Int8, Width};
use super::{Format, MatrixView, WeightBytes, check_len};
use crate::{KernelError, Result};

/// Dense matrix `[rows = out_features, cols = in_features]`.
#[derive(Clone, Debug)]
pub struct Matrix {
    storage: Storage,
    rows: usize,
    cols: usize,
}

#[derive(Clone, Debug)]
enum Storage {
    /// Row-major, little-endian, as the checkpoint has them.
    Bf16(WeightBytes),
    F32(WeightBytes),
    Int8(Int8),
}

impl Matrix {
    /// Takes the bytes of a `[rows, cols]` matrix.
    ///
    /// # Errors
    /// [`KernelError::WeightDType`] unless `dtype` is bf16 or f32, [`KernelError::WeightLength`]
    /// unless the bytes are exactly those of the shape.
    pub fn new(bytes: WeightBytes, dtype: DType, rows: usize, cols: usize) -> Result<Self> {
        let storage: fn(WeightBytes) -> Storage = match dtype {
            DType::BF16 => Storage::Bf16,
            DType::F32 => Storage::F32,
            found => return Err(KernelError::WeightDType { found }),
        };
        check_len("matrix", &bytes, &[rows, cols], dtype.size_in_bytes())?;
        Ok(Self { storage: storage(bytes), rows, cols })
    }

    /// The same matrix rounded to 8 bits with a scale per 32 columns of a row, in memory of its own: 8.5 bits a
    /// weight. Pages of a mapped file that were read for it are given back to the system.
    #[must_use]
    pub fn to_int8(&self) -> Self {
        self.rounded(Width::Eight)
    }

    /// As [`Self::to_int8`] with 10 bits: 10.5 bits a weight.
    #[must_use]
    pub fn to_int10(&self) -> Self {
        self.rounded(Width::Ten)
    }

    fn rounded(&self, width: Width) -> Self {
        let storage = Storage::Int8(Int8::new(self, width));
        if let Storage::Bf16(bytes) | Storage::F32(bytes) = &self.storage {
            bytes.release();
        }
        Self { storage, ..*self }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the elements and scales.
    pub fn size_bytes(&self) -> usize {
        match &self.storage {
            Storage::Bf16(bytes) | Storage::F32(bytes) => bytes.len(),
            Storage::Int8(int8) => int8.len(),
        }
    }

    /// Row `row` as f32 into `out` of [`Self::cols`] elements. Both indices are the caller's to keep in range.
    pub fn copy_row_f32(&self, row: usize, out: &mut [f32]) {
        self.view().copy_row(row, out);
    }

    /// The elements and their type, row-major and little-endian; `None` if they were rounded to 8 bits.
    pub(crate) fn stored(&self) -> Option<(&[u8], DType)> {
        match &self.storage {
            Storage::Bf16(bytes) => Some((bytes.as_slice(), DType::BF16)),
            Storage::F32(bytes) => Some((bytes.as_slice(), DType::F32)),
            Storage::Int8(_) => None,
        }
    }

    /// Whether it is rounded to 8 bits.
    #[cfg(feature = "cuda")]
    pub(crate) fn is_int8(&self) -> bool {
        matches!(&self.storage, Storage::Int8(int8) if int8.is_8_bits())
    }

    /// Of a matrix rounded to 8 bits, values `[rows, cols]` and twice the scales `[rows, cols / 32]`, row by row.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn int8_by_row(&self) -> Option<(Vec<u8>, Vec<half::f16>)> {
        match &self.storage {
            Storage::Int8(int8) => int8.by_row(self.rows, self.cols),
            Storage::Bf16(_) | Storage::F32(_) => None,
        }
    }

    pub(crate) fn view(&self) -> MatrixView<'_> {
        let format = match &self.storage {
            Storage::Bf16(bytes) => Format::Bf16(bytes.as_slice()),
            Storage::F32(bytes) => Format::F32(bytes.as_slice()),
            Storage::Int8(int8) => Format::Int8(int8.view(self.cols)),
        };
        MatrixView { format, rows: self.rows, cols: self.cols }
    }
}
