//! The linear layer on CUDA: `bf16_gemv.cu` for few tokens, cuBLAS for more; `exact_gemv.cu` where activations are not to
//! be rounded.

/// As in the kernel's file.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bf16GemvArgs {
    weight: u64,
    bias: u64,
    x: u64,
    y: u64,
    rows: u32,
    cols: u32,
    num_tokens: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ExactGemvArgs {
    weight: u64,
    bias: u64,
    x: u64,
    y: u64,
    rows: u32,
    cols: u32,
}

/// Tokens of one launch.
const TOKENS: usize = 4;
/// Weight rows of a block: four of each of eight warps.
const BLOCK_ROWS: usize = 32;
/// The same of the exact kernel: one of each.
const EXACT_BLOCK_ROWS: usize = 8;
const THREADS: u32 = 256;

#[cfg(feature = "cuda")]
mod device {
    use std::sync::Arc;

    use candle_core::{DType, Tensor};

    use super::super::generic::GenericLinear;
    use super::{BLOCK_ROWS, Bf16GemvArgs, EXACT_BLOCK_ROWS, ExactGemvArgs, THREADS, TOKENS};
    use crate::Result;
    use crate::backend::Backend;
    use crate::cuda::Kernels;
    use crate::gpu::Grid;
    use crate::weight::Matrix;

    /// Most tokens that are multiplied without cuBLAS.
    const MAX_GEMV_TOKENS: usize = 8;

    /// A bf16 weight whose activations are rounded to bf16.
    #[derive(Clone, Debug)]
    pub(in super::super) struct CudaLinear {
        layer: GenericLinear,
        kernels: Arc<Kernels>,
    }

    impl CudaLinear {
        /// The kernel's form of `layer`, if it can be had: bf16 throughout, whole steps of columns.
        pub(in super::super) fn new(layer: &GenericLinear, kernels: &Arc<Kernels>) -> Option<Self> {
            let fits = layer.weight.dtype() == DType::BF16 && layer.weight.dims()[1].is_multiple_of(8);
            fits.then(|| Self { layer: layer.clone(), kernels: kernels.clone() })
        }

        /// `x` `[n, in_features]` f32 to `[n, out_features]` f32.
        pub(in super::super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
            let num_tokens = x.dims()[0];
            if num_tokens > MAX_GEMV_TOKENS {
                return self.layer.forward(x);
            }
            let (rows, cols) = self.layer.weight.dims2()?;
            let (x, y) = (x.contiguous()?, self.kernels.output((num_tokens, rows), DType::F32)?);
            for first in (0..num_tokens).step_by(TOKENS) {
                let args = Bf16GemvArgs {
                    weight: self.kernels.address(&self.layer.weight)?,
                    bias: self.layer.bias.as_ref().map_or(Ok(0), |bias| self.kernels.address(bias))?,
                    x: self.kernels.address(&x)? + (first * cols * 4) as u64,
                    y: self.kernels.address(&y)? + (first * rows * 4) as u64,
                    rows: rows as u32,
                    cols: cols as u32,
                    num_tokens: (num_tokens - first).min(TOKENS) as u32,
                };
                let grid = Grid::new([rows.div_ceil(BLOCK_ROWS), 1, 1], THREADS);
                // SAFETY: the kernel reads whole rows of the weight and writes these tokens' rows of `y`.
                unsafe { self.kernels.launch("bf16_gemv_f32", args, grid)? };
            }
            Ok(y)
        }
    }

    /// A bf16 weight that is multiplied with f32 activations as they are.
    #[derive(Clone, Debug)]
    pub(in super::super) struct ExactLinear {
        /// bf16 `[out_features, in_features]`.
        weight: Tensor,
        /// f32 `[out_features]`.
        bias: Option<Tensor>,
        kernels: Arc<Kernels>,
    }

    impl ExactLinear {
        /// Whether the kernel takes this weight: bf16, whole steps of columns.
        pub(in super::super) fn fits(weight: &Matrix) -> bool {
            let is_bf16 = weight.stored().is_some_and(|(_, dtype)| dtype == DType::BF16);
            is_bf16 && weight.cols().is_multiple_of(8)
        }

        pub(in super::super) fn new(
            backend: &Backend,
            kernels: &Arc<Kernels>,
            weight: &Matrix,
            bias: Option<&[f32]>,
        ) -> Result<Self> {
            let bias = backend.optional_vector(bias)?;
            Ok(Self { weight: backend.matrix(weight)?, bias, kernels: kernels.clone() })
        }

        /// `x` `[n, in_features]` f32 to `[n, out_features]` f32.
        pub(in super::super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
            let (rows, cols) = self.weight.dims2()?;
            let (x, num_tokens) = (x.contiguous()?, x.dims()[0]);
            let y = self.kernels.output((num_tokens, rows), DType::F32)?;
            let args = ExactGemvArgs {
                weight: self.kernels.address(&self.weight)?,
                bias: self.bias.as_ref().map_or(Ok(0), |bias| self.kernels.address(bias))?,
                x: self.kernels.address(&x)?,
                y: self.kernels.address(&y)?,
                rows: rows as u32,
                cols: cols as u32,
            };
            let grid = Grid::new([rows.div_ceil(EXACT_BLOCK_ROWS), num_tokens, 1], THREADS);
            // SAFETY: the kernel reads whole rows of the weight and of `x`, and writes one row of `y` per token.
            unsafe { self.kernels.launch("exact_gemv_f32", args, grid)? };
            Ok(y)
        }
    }
}

#[cfg(feature = "cuda")]
pub(super) use device::{CudaLinear, ExactLinear};

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::test_support::on_cpu;
    use super::*;
    use crate::check::Random;
    use crate::gpu::Grid;
    use crate::gpu::twin::{Output, Twin, assert_close, input};

    #[test]
    fn the_twin_agrees_with_the_cpu_kernel() {
        let random = &mut Random::fresh();
        let twin = Twin::of("linear/bf16_gemv.cu");
        // Columns of less than a warp's step, of odd steps, and of more than is staged at once.
        for (rows, cols) in [(5, 8), (37, 264), (64, 2880), (5, 4104)] {
            for num_tokens in 1..=TOKENS {
                let (weight, bias) = (random.bf16s(rows * cols), random.f32s(rows));
                let x = random.f32s(num_tokens * cols);
                let mut y = Output::new(num_tokens * rows);
                let with_bias = num_tokens % 2 == 0;
                let args = Bf16GemvArgs {
                    weight: input(&weight),
                    bias: if with_bias { input(&bias) } else { 0 },
                    x: input(&x),
                    y: y.address(),
                    rows: rows as u32,
                    cols: cols as u32,
                    num_tokens: num_tokens as u32,
                };
                twin.launch("bf16_gemv_f32", &args, Grid::new([rows.div_ceil(BLOCK_ROWS), 1, 1], THREADS));

                let rounded: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
                let expected = on_cpu(&weight, with_bias.then_some(bias), &rounded, [rows, cols]);
                assert_close(&y.f32s(), &expected, &format!("{rows}x{cols}, {num_tokens} tokens"));
            }
        }
    }

    #[test]
    fn the_exact_twin_rounds_nothing() {
        let random = &mut Random::fresh();
        for (rows, cols) in [(5, 8), (32, 2880), (37, 264)] {
            let (weight, bias) = (random.bf16s(rows * cols), random.f32s(rows));
            for num_tokens in [1, 5] {
                let x = random.f32s(num_tokens * cols);
                let mut y = Output::new(num_tokens * rows);
                let args = ExactGemvArgs {
                    weight: input(&weight),
                    bias: input(&bias),
                    x: input(&x),
                    y: y.address(),
                    rows: rows as u32,
                    cols: cols as u32,
                };
                let grid = Grid::new([rows.div_ceil(EXACT_BLOCK_ROWS), num_tokens, 1], THREADS);
                Twin::of("linear/exact_gemv.cu").launch("exact_gemv_f32", &args, grid);
                let expected = on_cpu(&weight, Some(bias.clone()), &x, [rows, cols]);
                assert_close(&y.f32s(), &expected, &format!("{rows}x{cols}, {num_tokens} tokens"));
            }
        }
    }
}
