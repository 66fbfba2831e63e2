//! The experts in candle's own ops: a visited expert is unpacked, used and dropped.

use candle_core::{DType, Tensor};

use super::router::Routes;
use super::{MoeWeights, SWIGLU_ALPHA};
use crate::backend::Backend;
use crate::linear::generic::multiply;
use crate::mxfp4::GenericMxfp4;
use crate::weight::ExpertParts;
use crate::{ComputeType, Result};

/// The experts of one layer on the device.
#[derive(Clone, Debug)]
pub(super) struct GenericExperts {
    pub(super) gate_up: Projection,
    pub(super) down: Projection,
    pub(super) num_experts: usize,
    pub(super) experts_per_token: usize,
    pub(super) swiglu_limit: f64,
    pub(super) compute: ComputeType,
}

/// One matrix and bias per expert.
#[derive(Clone, Debug)]
pub(super) struct Projection {
    pub(super) weights: Weights,
    /// `[num_experts, rows]` f32.
    pub(super) bias: Tensor,
}

#[derive(Clone, Debug)]
pub(super) enum Weights {
    Mxfp4(GenericMxfp4),
    /// `[num_experts, cols, rows]`, as bf16 checkpoints store them.
    Bf16(Tensor),
}

impl GenericExperts {
    /// Copies the weights to the device as they are stored.
    pub(super) fn new(backend: &Backend, weights: &MoeWeights, compute: ComputeType) -> Result<Self> {
        Ok(Self {
            gate_up: Projection::new(backend, &weights.gate_up, &weights.gate_up_bias)?,
            down: Projection::new(backend, &weights.down, &weights.down_bias)?,
            num_experts: weights.num_experts(),
            experts_per_token: weights.experts_per_token,
            swiglu_limit: f64::from(weights.swiglu_limit),
            compute,
        })
    }

    /// `x` `[n, hidden]` and `router_logits` `[n, num_experts]` to `[n, hidden]`, all f32. The choice of experts is made
    /// on the CPU, which costs one wait for the device.
    pub(super) fn forward(&self, x: &Tensor, router_logits: &Tensor) -> Result<Tensor> {
        let logits = router_logits.flatten_all()?.to_vec1::<f32>()?;
        let routes = Routes::new(&logits, self.num_experts, self.experts_per_token);
        if routes.num_slots() == 0 {
            return Ok(x.clone());
        }
        let tokens = Tensor::from_slice(routes.tokens(), routes.num_slots(), x.device())?;
        let gathered = x.contiguous()?.index_select(&tokens, 0)?; // [slots, hidden], sorted by expert
        let mut outputs = Vec::with_capacity(routes.visits().len());
        for visit in routes.visits() {
            let x = gathered.narrow(0, visit.slots.start, visit.slots.len())?;
            outputs.push(self.expert(visit.expert, &x)?);
        }
        combine(&routes, &Tensor::cat(&outputs, 0)?, self.experts_per_token)
    }

    /// `[n, hidden]` through one expert to the same.
    fn expert(&self, expert: usize, x: &Tensor) -> Result<Tensor> {
        let gate_up = self.gate_up.forward(expert, x, self.compute)?; // [n, 2 * intermediate]
        self.down.forward(expert, &self.swiglu(&gate_up)?, self.compute)
    }

    /// Interleaved gate and up `[n, 2 * intermediate]` to `[n, intermediate]`.
    fn swiglu(&self, gate_up: &Tensor) -> Result<Tensor> {
        let (num_tokens, width) = gate_up.dims2()?;
        let pairs = gate_up.reshape((num_tokens, width / 2, 2))?;
        let half =
            |index| -> candle_core::Result<Tensor> { pairs.narrow(2, index, 1)?.squeeze(2)?.contiguous() };
        let gate = half(0)?.minimum(self.swiglu_limit)?;
        let up = half(1)?.minimum(self.swiglu_limit)?.maximum(-self.swiglu_limit)?;
        let sigmoid = ((&gate * -f64::from(SWIGLU_ALPHA))?.exp()? + 1.0)?.recip()?;
        Ok(((up + 1.0)? * (gate * sigmoid)?)?)
    }
}

impl Projection {
    fn new(backend: &Backend, weights: &crate::ExpertWeights, bias: &[f32]) -> Result<Self> {
        let (num_experts, rows, cols) = (weights.num_experts(), weights.rows(), weights.cols());
        let bias = backend.vector(bias)?.reshape((num_experts, rows))?;
        let weights = match weights.parts() {
            ExpertParts::Mxfp4 { blocks, scales } => {
                Weights::Mxfp4(GenericMxfp4::new(backend, blocks, scales, [num_experts, rows, cols])?)
            }
            ExpertParts::Bf16(bytes) => {
                Weights::Bf16(backend.upload(bytes, DType::BF16, &[num_experts, cols, rows])?)
            }
        };
        Ok(Self { weights, bias })
    }

    /// `x` `[n, cols]` f32 through the matrix of `expert` to `[n, rows]` f32.
    fn forward(&self, expert: usize, x: &Tensor, compute: ComputeType) -> Result<Tensor> {
        let dtype = match compute {
            ComputeType::F32 => DType::F32,
            ComputeType::Bf16 => DType::BF16,
        };
        let weight = match &self.weights {
            Weights::Mxfp4(weights) => weights.expert(expert)?.to_dtype(dtype)?,
            Weights::Bf16(weights) => weights.get(expert)?.t()?.to_dtype(dtype)?,
        };
        Ok(multiply(x, &weight, compute)?.broadcast_add(&self.bias.get(expert)?)?)
    }
}

/// Weighted sum of each token's slots, in the token's own order of experts: `outputs` `[slots, hidden]` to
/// `[n, hidden]`.
fn combine(routes: &Routes, outputs: &Tensor, experts_per_token: usize) -> Result<Tensor> {
    let device = outputs.device();
    let (slots, weights): (Vec<u32>, Vec<f32>) = routes.choices().iter().copied().unzip();
    let slots = Tensor::from_vec(slots, routes.num_slots(), device)?;
    let weights = Tensor::from_vec(weights, (routes.num_tokens(), experts_per_token, 1), device)?;
    let hidden = outputs.dim(1)?;
    let outputs =
        outputs.index_select(&slots, 0)?.reshape((routes.num_tokens(), experts_per_token, hidden))?;
    Ok(outputs.broadcast_mul(&weights)?.sum(1)?)
}
