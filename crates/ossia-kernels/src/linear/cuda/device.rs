//! The linear layer on a CUDA device.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use half::f16;

use super::{
    AddBiasArgs, BIAS_THREADS, ExactGemvArgs, MAX_F32_TOKENS, MAX_LAYERS, MAX_MMA_TOKENS, MMA_THREADS,
    MmaArgs, MmaLayer, PACK_THREADS, PackBf16Args, WIDEN_THREADS, WeightType, WidenInt8Args, exact_kernel,
    mma_kernel,
};
use crate::Result;
use crate::backend::Backend;
use crate::cuda::Kernels;
use crate::gpu::Grid;
use crate::weight::Matrix;

/// A weight whose activations are rounded to bf16.
#[derive(Clone, Debug)]
pub(in super::super) struct CudaLinear {
    weight: Weight,
    rows: usize,
    cols: usize,
    /// f32 `[rows]`.
    bias: Option<Tensor>,
    kernels: Arc<Kernels>,
}

#[derive(Clone, Debug)]
enum Weight {
    /// `[rows, cols]`.
    Bf16(Tensor),
    /// Bytes `[rows, cols]`, and twice the scales, f16 `[rows, cols / 32]`.
    Int8 { values: Tensor, double_scales: Tensor },
}

/// Tokens from which on weights of 8 bits are widened for cuBLAS.
const MIN_WIDENED_TOKENS: usize = 256;
/// Largest weight that is widened whole.
const MAX_WIDENED_BYTES: usize = 256 << 20;

impl CudaLinear {
    /// Whether the kernels take this weight: bf16 or 8 bits, whole steps of columns.
    pub(in super::super) fn fits(weight: &Matrix) -> bool {
        let fits = weight.stored().map_or(weight.is_int8(), |(_, dtype)| dtype == DType::BF16);
        fits && weight.cols().is_multiple_of(8)
    }

    /// Copies a weight that fits to the device.
    pub(in super::super) fn new(
        backend: &Backend,
        kernels: &Arc<Kernels>,
        weight: &Matrix,
        bias: Option<&[f32]>,
    ) -> Result<Self> {
        let (rows, cols) = (weight.rows(), weight.cols());
        let on_device = match weight.int8_by_row() {
            None => Weight::Bf16(backend.matrix(weight)?),
            Some((values, scales)) => {
                let scales: Vec<u8> = scales.into_iter().flat_map(f16::to_le_bytes).collect();
                Weight::Int8 {
                    values: backend.upload(&values, DType::U8, &[rows, cols])?,
                    double_scales: backend.upload(&scales, DType::F16, &[rows, cols.div_ceil(32)])?,
                }
            }
        };
        let (bias, kernels) = (backend.optional_vector(bias)?, kernels.clone());
        Ok(Self { weight: on_device, rows, cols, bias, kernels })
    }

    /// `x` `[n, in_features]` f32 to `[n, out_features]` f32.
    pub(in super::super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let [y] = Self::forward_all([self], x)?;
        Ok(y)
    }

    /// The same of up to three layers that share their input and are [alike](Self::is_like).
    pub(in super::super) fn forward_all<const N: usize>(
        layers: [&Self; N],
        x: &Tensor,
    ) -> Result<[Tensor; N]> {
        const { assert!(N > 0 && N <= MAX_LAYERS) }
        let kernels = &*layers[0].kernels;
        let x = pack_if_many(kernels, &x.contiguous()?)?;
        let num_tokens = x.dims()[0];
        let output = |layer: &&Self| kernels.output((num_tokens, layer.rows), DType::F32);
        let outputs = layers.iter().map(output).collect::<Result<Vec<_>>>()?;
        if num_tokens <= MAX_MMA_TOKENS {
            Self::multiply_few(&layers, &x, &outputs, 0..num_tokens)?;
        } else {
            for (layer, y) in layers.iter().zip(&outputs) {
                layer.multiply_many(&x, y)?;
            }
        }
        // One output was made for each layer.
        outputs.try_into().map_err(|_| candle_core::Error::Msg("an output per layer".to_owned()).into())
    }

    /// The products of a few `tokens`, in one launch.
    fn multiply_few(layers: &[&Self], x: &Tensor, outputs: &[Tensor], tokens: Range<usize>) -> Result<()> {
        let (kernels, cols) = (&*layers[0].kernels, layers[0].cols);
        let (kernel, block_rows) =
            mma_kernel(layers[0].weight_type(), tokens.len(), x.dtype() == DType::BF16);
        let mut args = MmaArgs {
            layers: [MmaLayer::default(); MAX_LAYERS],
            x: kernels.address(x)? + (tokens.start * cols * x.dtype().size_in_bytes()) as u64,
            cols: cols as u32,
            num_tokens: tokens.len() as u32,
        };
        let mut blocks = 0;
        for ((args, layer), y) in args.layers.iter_mut().zip(layers).zip(outputs) {
            *args = layer.args(y, tokens.start)?;
            blocks += layer.rows.div_ceil(block_rows);
        }
        if !tokens.is_empty() {
            // SAFETY: the kernel reads whole rows of the weights and of `x`, which all have `cols` columns, and writes a row of
            // each output per token.
            unsafe { kernels.launch(kernel, args, Grid::new([blocks, 1, 1], MMA_THREADS))? };
        }
        Ok(())
    }

    /// The product of many tokens, `x` bf16, to `y`.
    fn multiply_many(&self, x: &Tensor, y: &Tensor) -> Result<()> {
        let num_tokens = x.dims()[0];
        // The kernel that adds the bias takes pairs.
        let weight = if self.rows.is_multiple_of(2) { self.weight_for_many(num_tokens)? } else { None };
        let Some(weight) = weight else {
            for first in (0..num_tokens).step_by(MAX_MMA_TOKENS) {
                let tokens = first..num_tokens.min(first + MAX_MMA_TOKENS);
                Self::multiply_few(&[self], x, std::slice::from_ref(y), tokens)?;
            }
            return Ok(());
        };
        let products = x.matmul(&weight.t()?)?;
        let args = AddBiasArgs {
            products: self.kernels.address(&products)?,
            bias: self.bias_address()?,
            y: self.kernels.address(y)?,
            cols: self.rows as u32,
        };
        let grid = Grid::new([self.rows.div_ceil(2 * BIAS_THREADS as usize), num_tokens, 1], BIAS_THREADS);
        // SAFETY: both have `num_tokens` rows of an even number of columns.
        unsafe { self.kernels.launch("add_bias_bf16_f32", args, grid) }
    }

    /// The weight in bf16 as cuBLAS takes it; `None` where our own kernel is to take the tokens in turns.
    fn weight_for_many(&self, num_tokens: usize) -> Result<Option<Tensor>> {
        let (values, double_scales) = match &self.weight {
            Weight::Bf16(weight) => return Ok(Some(weight.clone())),
            Weight::Int8 { values, double_scales } => (values, double_scales),
        };
        if num_tokens < MIN_WIDENED_TOKENS || 2 * self.rows * self.cols > MAX_WIDENED_BYTES {
            return Ok(None);
        }
        let wide = self.kernels.output((self.rows, self.cols), DType::BF16)?;
        let args = WidenInt8Args {
            values: self.kernels.address(values)?,
            double_scales: self.kernels.address(double_scales)?,
            wide: self.kernels.address(&wide)?,
            cols: self.cols as u32,
        };
        let grid = Grid::new([self.rows, self.cols.div_ceil(8 * WIDEN_THREADS as usize), 1], WIDEN_THREADS);
        // SAFETY: all are of `rows` by `cols`, whole steps of eight.
        unsafe { self.kernels.launch("widen_int8_bf16", args, grid)? };
        Ok(Some(wide))
    }

    /// What the kernel reads and writes of a layer, whose output's first token is the `first_token`-th.
    fn args(&self, y: &Tensor, first_token: usize) -> Result<MmaLayer> {
        let (weight, double_scales) = match &self.weight {
            Weight::Bf16(weight) => (self.kernels.address(weight)?, 0),
            Weight::Int8 { values, double_scales } => {
                (self.kernels.address(values)?, self.kernels.address(double_scales)?)
            }
        };
        Ok(MmaLayer {
            weight,
            double_scales,
            bias: self.bias_address()?,
            y: self.kernels.address(y)? + (4 * first_token * self.rows) as u64,
            rows: self.rows as u64,
        })
    }

    fn bias_address(&self) -> Result<u64> {
        self.bias.as_ref().map_or(Ok(0), |bias| self.kernels.address(bias))
    }

    fn weight_type(&self) -> WeightType {
        match self.weight {
            Weight::Bf16(_) => WeightType::Bf16,
            Weight::Int8 { .. } => WeightType::Int8,
        }
    }

    /// Whether one launch takes both.
    pub(in super::super) fn is_like(&self, other: &Self) -> bool {
        self.cols == other.cols && self.weight_type() == other.weight_type()
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
