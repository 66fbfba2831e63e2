//! Mixture of experts: `y = sum_j w_j * down_j(swiglu(gate_up_j(x)))` over each token's top experts.

mod router;
mod swiglu;

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use crate::cpu::{check_activation, contiguous_f32};
use crate::matmul::{PackedActivations, multiply};
use crate::weight::ExpertWeights;
use crate::{ComputeType, KernelError, Result};

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
    compute: ComputeType,
}

impl MoeExperts {
    /// Checks that the parts fit each other.
    ///
    /// # Errors
    /// [`KernelError::Shape`] naming the first part that does not fit.
    pub fn new(weights: MoeWeights, compute: ComputeType) -> Result<Self> {
        let (up, down) = (&weights.gate_up, &weights.down);
        let (experts, hidden, inter) = (up.num_experts(), up.cols(), up.rows() / 2);
        let expect = |what, expected: &[usize], found: &[usize]| -> Result<()> {
            if expected == found {
                return Ok(());
            }
            Err(KernelError::Shape {
                op: "moe",
                what,
                expected: format!("{expected:?}"),
                found: found.to_vec(),
            })
        };
        let down_shape = [down.num_experts(), down.rows(), down.cols()];
        expect("gate_up rows", &[2 * inter], &[up.rows()])?;
        expect("down", &[experts, hidden, inter], &down_shape)?;
        expect(
            "gate_up bias",
            &[experts * up.rows()],
            &[weights.gate_up_bias.len()],
        )?;
        expect("down bias", &[experts * hidden], &[weights.down_bias.len()])?;
        let top_k = weights.experts_per_token;
        expect(
            "experts per token",
            &[top_k.clamp(1, experts.max(1))],
            &[top_k],
        )?;
        Ok(Self { weights, compute })
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
        if x.dims()[0] != router_logits.dims()[0] {
            return Err(KernelError::Shape {
                op: "moe",
                what: "router logits",
                expected: format!("[{}, {num_experts}]", x.dims()[0]),
                found: router_logits.dims().to_vec(),
            });
        }
        Ok(x.contiguous()?
            .apply_op2_no_bwd(&router_logits.contiguous()?, self)?)
    }

    /// One token after the other, expert by expert: the definition.
    fn forward_slice(&self, x: &[f32], router_logits: &[f32]) -> Vec<f32> {
        let w = &self.weights;
        let hidden = self.hidden_size();
        let mut y = vec![0f32; x.len()];
        let logits = router_logits.chunks(w.gate_up.num_experts());
        for ((x, logits), y) in x.chunks(hidden).zip(logits).zip(y.chunks_mut(hidden)) {
            for (expert, weight) in router::top_k(logits, w.experts_per_token) {
                for (y, v) in y.iter_mut().zip(self.expert(expert, x)) {
                    *y += weight * v;
                }
            }
        }
        y
    }

    fn expert(&self, expert: usize, x: &[f32]) -> Vec<f32> {
        let w = &self.weights;
        let gate_up = self.project(&w.gate_up, &w.gate_up_bias, expert, x);
        let act: Vec<f32> = gate_up
            .chunks(2)
            .map(|gu| swiglu::swiglu(gu[0], gu[1], w.swiglu_limit))
            .collect();
        self.project(&w.down, &w.down_bias, expert, &act)
    }

    fn project(&self, weights: &ExpertWeights, bias: &[f32], expert: usize, x: &[f32]) -> Vec<f32> {
        let rows = weights.rows();
        let packed = PackedActivations::pack(self.compute, x, x.len(), 0..1);
        let mut y = vec![0f32; rows];
        multiply(weights.expert(expert), 0..rows, &packed, &mut y);
        for (y, b) in y.iter_mut().zip(&bias[expert * rows..]) {
            *y += b;
        }
        y
    }
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
