//! Reproducible inputs of any size.

use candle_core::{Device, Tensor};
use half::bf16;

use crate::{ExpertWeights, Matrix, Result, WeightBytes};

/// A splitmix64 generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let x = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ x >> 31
    }

    /// Values in -1..1.
    pub(crate) fn f32s(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (self.word() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }

    /// A tensor on the CPU, of values in -1..1.
    pub(super) fn tensor(&mut self, shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.f32s(shape.iter().product()), shape, &Device::Cpu)?)
    }

    /// Bytes of a range.
    pub(crate) fn bytes(&mut self, count: usize, range: std::ops::RangeInclusive<u8>) -> Vec<u8> {
        let span = u64::from(range.end() - range.start()) + 1;
        (0..count).map(|_| range.start() + (self.word() % span) as u8).collect()
    }

    /// A bf16 matrix of values in -1..1.
    pub(super) fn matrix(&mut self, rows: usize, cols: usize) -> Result<Matrix> {
        let bytes =
            self.f32s(rows * cols).into_iter().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
        Matrix::new(WeightBytes::owned(bytes), candle_core::DType::BF16, rows, cols)
    }

    /// MXFP4 experts whose products with values of order one are of order one.
    pub(super) fn experts(&mut self, num_experts: usize, rows: usize, cols: usize) -> Result<ExpertWeights> {
        let count = num_experts * rows * cols;
        let exponent = (127.0 - (cols as f32).sqrt().log2() - 1.0) as u8;
        let blocks = WeightBytes::owned(self.bytes(count / 2, 0..=255));
        let scales = WeightBytes::owned(self.bytes(count / 32, exponent - 1..=exponent + 1));
        ExpertWeights::mxfp4(blocks, scales, num_experts, rows, cols)
    }
}

#[cfg(test)]
impl Random {
    /// Seeded anew at each run; a failing test shows the seed that repeats it.
    pub(crate) fn fresh() -> Self {
        let seed = rand::random();
        eprintln!("seed {seed}");
        Self(seed)
    }

    /// An integer below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.word() as usize % end
    }

    /// Values in -1..1.
    pub(crate) fn bf16s(&mut self, count: usize) -> Vec<bf16> {
        self.f32s(count).into_iter().map(bf16::from_f32).collect()
    }
}
