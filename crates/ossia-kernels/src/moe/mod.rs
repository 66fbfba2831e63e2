//! Mixture of experts: `y = sum_j w_j * down_j(swiglu(gate_up_j(x)))` over each token's top experts.

mod cpu;
#[cfg(any(test, feature = "cuda"))]
mod cuda;
mod forward;
mod generic;
#[cfg(any(test, feature = "metal"))]
mod metal;
mod router;
mod swiglu;
#[cfg(test)]
mod test_layer;

use candle_core::{Device, Tensor};

use self::cpu::CpuExperts;
use self::generic::GenericExperts;
use crate::backend::{Backend, Form};
use crate::cpu::check_activation;
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

impl MoeWeights {
    /// Width of input and output.
    fn hidden_size(&self) -> usize {
        self.gate_up.cols()
    }

    fn num_experts(&self) -> usize {
        self.gate_up.num_experts()
    }

    /// Fails unless the parts fit each other, naming the first that does not.
    fn check(&self) -> Result<()> {
        let (up, down) = (&self.gate_up, &self.down);
        let (experts, hidden, inter) = (up.num_experts(), up.cols(), up.rows() / 2);
        let down_shape = [down.num_experts(), down.rows(), down.cols()];
        expect("number of experts", &[experts.max(1)], &[experts])?;
        expect("gate_up rows", &[2 * inter], &[up.rows()])?;
        expect("down", &[experts, hidden, inter], &down_shape)?;
        expect("gate_up bias", &[experts * up.rows()], &[self.gate_up_bias.len()])?;
        expect("down bias", &[experts * hidden], &[self.down_bias.len()])?;
        let top_k = self.experts_per_token;
        expect("experts per token", &[top_k.clamp(1, experts)], &[top_k])
    }
}

/// The experts of one layer.
#[derive(Clone, Debug)]
pub struct MoeExperts {
    experts: Experts,
    hidden_size: usize,
    num_experts: usize,
}

#[derive(Clone, Debug)]
enum Experts {
    Cpu(CpuExperts),
    /// On the CPU, for activations that come from a device and go back to it.
    InRam(CpuExperts, Device),
    Generic(GenericExperts),
    #[cfg(feature = "cuda")]
    Cuda(cuda::CudaExperts),
    #[cfg(feature = "metal")]
    Metal(metal::MetalExperts),
}

impl MoeExperts {
    /// Checks that the parts fit each other and takes the best path of this processor.
    ///
    /// # Errors
    /// [`KernelError::Shape`] naming the first part that does not fit.
    pub fn new(weights: MoeWeights, compute: ComputeType) -> Result<Self> {
        Self::on_backend(&Backend::cpu(), weights, compute)
    }

    pub(crate) fn on_backend(backend: &Backend, weights: MoeWeights, compute: ComputeType) -> Result<Self> {
        weights.check()?;
        let (hidden_size, num_experts) = (weights.hidden_size(), weights.num_experts());
        let experts = match backend.form() {
            Form::Cpu => Experts::Cpu(CpuExperts::new(weights, compute)),
            Form::Generic => Experts::Generic(GenericExperts::new(backend, &weights, compute)?),
            #[cfg(feature = "cuda")]
            Form::Cuda(kernels) => {
                let experts = GenericExperts::new(backend, &weights, compute)?;
                cuda::CudaExperts::new(&experts, &weights, kernels)
                    .map_or(Experts::Generic(experts), Experts::Cuda)
            }
            #[cfg(feature = "metal")]
            Form::Metal(kernels) => {
                let experts = GenericExperts::new(backend, &weights, compute)?;
                metal::MetalExperts::new(&experts, kernels).map_or(Experts::Generic(experts), Experts::Metal)
            }
        };
        Ok(Self { experts, hidden_size, num_experts })
    }

    pub(crate) fn in_ram(backend: &Backend, weights: MoeWeights, compute: ComputeType) -> Result<Self> {
        weights.check()?;
        let (hidden_size, num_experts) = (weights.hidden_size(), weights.num_experts());
        let experts = Experts::InRam(CpuExperts::new(weights, compute), backend.device().clone());
        Ok(Self { experts, hidden_size, num_experts })
    }

    /// The same experts on another path of the CPU, for tests and measurements; elsewhere there is one path.
    ///
    /// # Errors
    /// [`KernelError::IsaUnavailable`] if this processor lacks it.
    pub fn on(mut self, isa: Isa) -> Result<Self> {
        if let Experts::Cpu(experts) = self.experts {
            self.experts = Experts::Cpu(experts.on(isa)?);
        }
        Ok(self)
    }

    /// Width of input and output.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// `x` `[n, hidden]` and `router_logits` `[n, num_experts]` to `[n, hidden]`, all f32.
    ///
    /// # Errors
    /// [`KernelError::Shape`] or [`KernelError::ActivationDType`] if an argument is anything else.
    pub fn forward(&self, x: &Tensor, router_logits: &Tensor) -> Result<Tensor> {
        check_activation("moe", "x", x, self.hidden_size)?;
        check_activation("moe", "router logits", router_logits, self.num_experts)?;
        expect("router logits", &[x.dims()[0], self.num_experts], router_logits.dims())?;
        match &self.experts {
            Experts::Cpu(experts) => experts.forward(x, router_logits),
            Experts::InRam(experts, device) => {
                let (x, router_logits) = (x.to_device(&Device::Cpu)?, router_logits.to_device(&Device::Cpu)?);
                Ok(experts.forward(&x, &router_logits)?.to_device(device)?)
            }
            Experts::Generic(experts) => experts.forward(x, router_logits),
            #[cfg(feature = "cuda")]
            Experts::Cuda(experts) => experts.forward(x, router_logits),
            #[cfg(feature = "metal")]
            Experts::Metal(experts) => experts.forward(x, router_logits),
        }
    }
}

fn expect(what: &'static str, expected: &[usize], found: &[usize]) -> Result<()> {
    if expected == found {
        return Ok(());
    }
    Err(KernelError::Shape { op: "moe", what, expected: format!("{expected:?}"), found: found.to_vec() })
}
