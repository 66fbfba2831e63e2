//! The linear layer on a CUDA device.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::super::generic::GenericLinear;
use super::{
    AddBiasArgs, BIAS_THREADS, Bf16MmaArgs, ExactGemvArgs, MAX_F32_TOKENS, MAX_LAYERS, MMA_THREADS, MmaLayer,
    PACK_THREADS, PackBf16Args, exact_kernel, kernel_for,
};
use crate::Result;
use crate::backend::Backend;
use crate::cuda::Kernels;
use crate::gpu::Grid;
use crate::weight::Matrix;

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
        let [y] = Self::forward_all([self], x)?;
        Ok(y)
    }

    /// The same of up to three layers that share their input.
    pub(in super::super) fn forward_all<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
    ) -> Result<[Tensor; N]> {
        const { assert!(N > 0 && N <= MAX_LAYERS) }
        let kernels = &*layers[0].kernels;
        let x = pack_if_many(kernels, &x.contiguous()?)?;
        let outputs = match kernel_for(x.dims()[0]) {
            Some((kernel, block_rows)) => Self::multiply_few(&layers, &x, kernel, block_rows)?,
            None => layers.iter().map(|layer| layer.multiply_many(&x)).collect::<Result<Vec<_>>>()?,
        };
        // One output was made for each layer.
        outputs.try_into().map_err(|_| candle_core::Error::Msg("an output per layer".to_owned()).into())
    }

    /// The products of few tokens, in one launch of `kernel`, whose blocks have `block_rows` weight rows.
    fn multiply_few(
        layers: &[&Self],
        x: &Tensor,
        kernel: &'static str,
        block_rows: usize,
    ) -> Result<Vec<Tensor>> {
        let kernels = &*layers[0].kernels;
        let (num_tokens, cols) = x.dims2()?;
        let mut args = Bf16MmaArgs {
            layers: [MmaLayer::default(); MAX_LAYERS],
            x: kernels.address(x)?,
            cols: cols as u32,
            num_tokens: num_tokens as u32,
        };
        let (mut outputs, mut blocks) = (Vec::with_capacity(layers.len()), 0);
        for (args, layer) in args.layers.iter_mut().zip(layers) {
            let rows = layer.layer.weight.dims()[0];
            let y = kernels.output((num_tokens, rows), DType::F32)?;
            *args = layer.args(&y)?;
            blocks += rows.div_ceil(block_rows);
            outputs.push(y);
        }
        if num_tokens > 0 {
            // SAFETY: the kernel reads whole rows of the weights and of `x`, which all have `cols` columns, and writes a row of
            // each output per token.
            unsafe { kernels.launch(kernel, args, Grid::new([blocks, 1, 1], MMA_THREADS))? };
        }
        Ok(outputs)
    }

    /// The product of many tokens, `x` bf16.
    fn multiply_many(&self, x: &Tensor) -> Result<Tensor> {
        let (num_tokens, rows) = (x.dims()[0], self.layer.weight.dims()[0]);
        if !rows.is_multiple_of(2) {
            // The kernel that adds the bias takes pairs.
            return self.layer.forward(x);
        }
        let products = x.matmul(&self.layer.weight.t()?)?;
        let y = self.kernels.output((num_tokens, rows), DType::F32)?;
        let args = AddBiasArgs {
            products: self.kernels.address(&products)?,
            bias: self.layer.bias.as_ref().map_or(Ok(0), |bias| self.kernels.address(bias))?,
            y: self.kernels.address(&y)?,
            cols: rows as u32,
        };
        let grid = Grid::new([rows.div_ceil(2 * BIAS_THREADS as usize), num_tokens, 1], BIAS_THREADS);
        // SAFETY: both have `num_tokens` rows of an even number of columns.
        unsafe { self.kernels.launch("add_bias_bf16_f32", args, grid)? };
        Ok(y)
    }

    fn args(&self, y: &Tensor) -> Result<MmaLayer> {
        Ok(MmaLayer {
            weight: self.kernels.address(&self.layer.weight)?,
            bias: self.layer.bias.as_ref().map_or(Ok(0), |bias| self.kernels.address(bias))?,
            y: self.kernels.address(y)?,
            rows: self.layer.weight.dims()[0] as u64,
        })
    }

    /// Columns of the weight, which must be those of layers of the same launch.
    pub(in super::super) fn in_features(&self) -> usize {
        self.layer.weight.dims()[1]
    }
}

/// `x` `[n, cols]` f32 as the kernel takes it: bf16 for more than eight tokens.
fn pack_if_many(kernels: &Kernels, x: &Tensor) -> Result<Tensor> {
    let (num_tokens, cols) = x.dims2()?;
    if num_tokens <= MAX_F32_TOKENS {
        return Ok(x.clone());
    }
    let packed = kernels.output((num_tokens, cols), DType::BF16)?;
    let count = num_tokens * cols / 8;
    let args =
        PackBf16Args { x: kernels.address(x)?, packed: kernels.address(&packed)?, count: count as u64 };
    let grid = Grid::new([count.div_ceil(PACK_THREADS as usize), 1, 1], PACK_THREADS);
    // SAFETY: both tensors have 8 * `count` elements, since `cols` is a multiple of 8.
    unsafe { kernels.launch("pack_bf16_f32", args, grid)? };
    Ok(packed)
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
            num_tokens: num_tokens as u32,
        };
        let (kernel, grid) = exact_kernel(rows, num_tokens);
        // SAFETY: the kernel reads whole rows of the weight and of `x`, and writes one row of `y` per token.
        unsafe { self.kernels.launch(kernel, args, grid)? };
        Ok(y)
    }
}
