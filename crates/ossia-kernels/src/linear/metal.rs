//! The linear layer on Metal: `gemv.metal` for few tokens and wherever activations are not to be rounded, candle's product
//! for more.

/// As in the kernel's file.
#[repr(C)]
#[derive(Clone, Copy)]
struct GemvArgs {
    rows: u32,
    cols: u32,
    num_tokens: u32,
    has_bias: u32,
}

/// Weight rows and tokens of a threadgroup.
const GROUP_ROWS: usize = 32;
const GROUP_TOKENS: usize = 4;
const THREADS: u32 = 256;

#[cfg(feature = "metal")]
mod device {
    use std::sync::Arc;

    use candle_core::{DType, Tensor};

    use super::super::generic::GenericLinear;
    use super::{GROUP_ROWS, GROUP_TOKENS, GemvArgs, THREADS};
    use crate::gpu::Grid;
    use crate::metal::MetalKernels;
    use crate::weight::Matrix;
    use crate::{ComputeType, Result};

    /// Most tokens for which each weight is read once per four of them, past which candle's product takes over.
    const MAX_GEMV_TOKENS: usize = 8;

    /// A bf16 weight.
    #[derive(Clone, Debug)]
    pub(in super::super) struct MetalLinear {
        /// bf16 `[out_features, in_features]`.
        weight: Tensor,
        /// f32 `[out_features]`.
        bias: Option<Tensor>,
        /// For many tokens, if activations may be rounded to bf16.
        many: Option<GenericLinear>,
        kernels: Arc<MetalKernels>,
    }

    /// Whether the kernel takes this weight: bf16, whole steps of columns.
    pub(in super::super) fn fits(weight: &Matrix) -> bool {
        weight.stored().is_some_and(|(_, dtype)| dtype == DType::BF16) && weight.cols().is_multiple_of(8)
    }

    impl MetalLinear {
        pub(in super::super) fn new(
            weight: Tensor,
            bias: Option<Tensor>,
            compute: ComputeType,
            kernels: &Arc<MetalKernels>,
        ) -> Result<Self> {
            let many = match compute {
                ComputeType::F32 => None,
                ComputeType::Bf16 => Some(GenericLinear::of(weight.clone(), bias.clone(), compute)),
            };
            Ok(Self { weight, bias, many, kernels: kernels.clone() })
        }

        /// `x` `[n, in_features]` f32 to `[n, out_features]` f32.
        pub(in super::super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
            let (num_tokens, (rows, cols)) = (x.dims()[0], self.weight.dims2()?);
            if let Some(many) = self.many.as_ref().filter(|_| num_tokens > MAX_GEMV_TOKENS) {
                return many.forward(x);
            }
            let (x, y) = (x.contiguous()?, self.kernels.output((num_tokens, rows), DType::F32)?);
            let args = GemvArgs {
                rows: rows as u32,
                cols: cols as u32,
                num_tokens: num_tokens as u32,
                has_bias: u32::from(self.bias.is_some()),
            };
            let inputs = [&self.weight, self.bias.as_ref().unwrap_or(&self.weight), &x];
            let grid = Grid::new([rows.div_ceil(GROUP_ROWS), num_tokens.div_ceil(GROUP_TOKENS), 1], THREADS);
            // SAFETY: the kernel reads whole rows of the weight and of `x`, and writes every element of `y`.
            unsafe { self.kernels.launch("gemv_bf16_f32", &inputs, &[&y], args, grid)? };
            Ok(y)
        }
    }
}

#[cfg(feature = "metal")]
pub(super) use device::{MetalLinear, fits};

#[cfg(test)]
mod tests {
    use super::super::test_support::on_cpu;
    use super::*;
    use crate::check::Random;
    use crate::gpu::Grid;
    use crate::gpu::twin::{Output, Twin, assert_close, input};

    #[test]
    fn the_twin_agrees_with_the_cpu_kernel() {
        let random = &mut Random::fresh();
        // Columns of less than a simdgroup's step and of odd steps; tokens of less than a threadgroup's and of more.
        for (rows, cols) in [(5, 8), (37, 264), (64, 2880)] {
            for num_tokens in [1, 3, 4, 9] {
                let (weight, bias) = (random.bf16s(rows * cols), random.f32s(rows));
                let x = random.f32s(num_tokens * cols);
                let mut y = Output::new(num_tokens * rows);
                let has_bias = u32::from(num_tokens % 2 == 0);
                let args = GemvArgs {
                    rows: rows as u32,
                    cols: cols as u32,
                    num_tokens: num_tokens as u32,
                    has_bias,
                };
                let blocks = [rows.div_ceil(GROUP_ROWS), num_tokens.div_ceil(GROUP_TOKENS), 1];
                Twin::of("linear/gemv.metal").launch_metal(
                    "gemv_bf16_f32",
                    &[input(&weight), input(&bias), input(&x), y.address()],
                    &args,
                    Grid::new(blocks, THREADS),
                );
                let expected = on_cpu(&weight, (has_bias == 1).then_some(bias), &x, [rows, cols]);
                assert_close(&y.f32s(), &expected, &format!("{rows}x{cols}, {num_tokens} tokens"));
            }
        }
    }
}
