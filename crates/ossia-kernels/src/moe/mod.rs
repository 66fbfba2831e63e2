//! Mixture of experts: `y = sum_j w_j * down_j(swiglu(gate_up_j(x)))` over each token's top experts.

mod forward;
mod router;
mod swiglu;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use crate::cpu::{check_activation, contiguous_f32};
use crate::matmul::Matmul;
use crate::weight::ExpertWeights;
use crate::{ComputeType, Isa, KernelError, Result};

pub use swiglu::SWIGLU_ALPHA;

/// What a mixture of experts is made of.
#[derive(Clone, Debug)]
pub struct MoeWeights {
    /// `[num_experts, 2 * intermediate, hidden]`, rows interleaving gate and up.
    pub gate_up: ExpertWeights,
    /// `[num_experts, 2 * intermediate]`, interleaved like the rows.
    pub gate_up_bias: Vec<f32>,
    /// `[num_experts, hidden, intermediate]`.
    pub down: ExpertWeights,
    /// `[num_experts, hidden]`.
    pub down_bias: Vec<f32>,
    /// Experts that each token visits.
    pub experts_per_token: usize,
    /// Bound of gate (above) and up (both sides) before the activation; 7 in gpt-oss.
    pub swiglu_limit: f32,
}

/// The experts of one layer.
#[derive(Clone, Debug)]
pub struct MoeExperts {
    weights: MoeWeights,
    matmul: Matmul,
}

impl MoeExperts {
    /// Checks that the parts fit each other and takes the best path of this processor.
    ///
    /// # Errors
    /// [`KernelError::Shape`] naming the first part that does not fit.
    pub fn new(weights: MoeWeights, compute: ComputeType) -> Result<Self> {
        let (up, down) = (&weights.gate_up, &weights.down);
        let (experts, hidden, inter) = (up.num_experts(), up.cols(), up.rows() / 2);
        let down_shape = [down.num_experts(), down.rows(), down.cols()];
        expect("number of experts", &[experts.max(1)], &[experts])?;
        expect("gate_up rows", &[2 * inter], &[up.rows()])?;
        expect("down", &[experts, hidden, inter], &down_shape)?;
        expect("gate_up bias", &[experts * up.rows()], &[weights.gate_up_bias.len()])?;
        expect("down bias", &[experts * hidden], &[weights.down_bias.len()])?;
        let top_k = weights.experts_per_token;
        expect("experts per token", &[top_k.clamp(1, experts)], &[top_k])?;
        let isa = Isa::detect();
        Ok(Self { weights, matmul: Matmul { isa, compute } })
    }

    /// The same experts on another path, for tests and measurements.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] if this processor lacks it.
    pub fn on(mut self, isa: Isa) -> Result<Self> {
        self.matmul.isa = isa.checked()?;
        Ok(self)
    }

    /// Width of input and output.
    pub fn hidden_size(&self) -> usize {
        self.weights.gate_up.cols()
    }

    /// `x` `[n, hidden]` and `router_logits` `[n, num_experts]` to `[n, hidden]`, all f32.
    ///
    /// # Errors
    /// [`KernelError::Shape`] or [`KernelError::ActivationDType`] if an argument is anything else.
    pub fn forward(&self, x: &Tensor, router_logits: &Tensor) -> Result<Tensor> {
        check_activation("moe", "x", x, self.hidden_size())?;
        let num_experts = self.weights.gate_up.num_experts();
        check_activation("moe", "router logits", router_logits, num_experts)?;
        expect("router logits", &[x.dims()[0], num_experts], router_logits.dims())?;
        Ok(x.contiguous()?.apply_op2_no_bwd(&router_logits.contiguous()?, self)?)
    }
}

fn expect(what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(KernelError::Shape { op: "moe", what, expected: format!("{expected:?}"), found: found.to_vec() })
}

impl CustomOp2 for MoeExperts {
    fn name(&self) -> &'static str {
        "moe"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        router_logits: &CpuStorage,
        router_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let x = contiguous_f32(x, x_layout)?;
        let router_logits = contiguous_f32(router_logits, router_layout)?;
        let y = self.forward_slice(x, router_logits);
        Ok((CpuStorage::F32(y), x_layout.shape().clone()))
    }
}
