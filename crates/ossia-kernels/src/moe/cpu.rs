//! The experts on the CPU: weights stay where they are mapped.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::MoeWeights;
use crate::cpu::contiguous_f32;
use crate::matmul::Matmul;
use crate::{ComputeType, Isa, Result};

/// Experts whose parts were checked against each other.
#[derive(Clone, Debug)]
pub(super) struct CpuExperts {
    pub(super) weights: MoeWeights,
    pub(super) matmul: Matmul,
}

impl CpuExperts {
    /// The experts on the best path of this processor.
    pub(super) fn new(weights: MoeWeights, compute: ComputeType) -> Self {
        Self { weights, matmul: Matmul { isa: Isa::detect(), compute } }
    }

    /// The same experts on another path.
    pub(super) fn on(mut self, isa: Isa) -> Result<Self> {
        self.matmul.isa = isa.checked()?;
        Ok(self)
    }

    /// `x` `[n, hidden]` and `router_logits` `[n, num_experts]` to `[n, hidden]`, all f32.
    pub(super) fn forward(&self, x: &Tensor, router_logits: &Tensor) -> Result<Tensor> {
        Ok(x.contiguous()?.apply_op2_no_bwd(&router_logits.contiguous()?, self)?)
    }
}

impl CustomOp2 for CpuExperts {
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
