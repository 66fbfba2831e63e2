//! Router and experts.

use ossia_kernels::{Communicator, ComputeType, Linear, MoeExperts, MoeWeights};

use candle_core::Tensor;

use super::Shard;
use crate::ModelError;
use crate::weights::Loader;

pub(super) struct Mlp {
    router: Linear,
    experts: MoeExperts,
    communicator: Communicator,
}

impl Mlp {
    pub(super) fn load(shard: &Shard, layer_idx: usize, loader: &mut Loader) -> Result<Self, ModelError> {
        let Shard { config, options, communicator } = shard;
        let prefix = format!("model.layers.{layer_idx}.mlp");
        let (hidden, inter, experts) = (config.hidden_size, shard.intermediate(), config.num_local_experts);
        let router = loader.matrix(&format!("{prefix}.router.weight"), experts, hidden)?;
        let router_bias = loader.vector(&format!("{prefix}.router.bias"), [experts])?;
        let gate_up = format!("{prefix}.experts.gate_up_proj");
        let down = format!("{prefix}.experts.down_proj");
        let weights = MoeWeights {
            gate_up: loader.experts(&gate_up, experts, inter.times(2), hidden)?,
            gate_up_bias: loader.vector(&format!("{gate_up}_bias"), [experts.into(), inter.times(2)])?,
            down: loader.experts(&down, experts, hidden, inter)?,
            down_bias: shard.bias_of_sum(loader.vector(&format!("{down}_bias"), [experts, hidden])?),
            experts_per_token: config.experts_per_token,
            swiglu_limit: config.swiglu_limit,
        };
        Ok(Self {
            // Which experts are chosen must not hang on rounding: the router is small and always f32.
            router: options.backend.linear(router, Some(router_bias), ComputeType::F32)?,
            experts: match layer_idx < options.cpu_moe {
                true => options.backend.moe_in_ram(weights, options.compute)?,
                false => options.backend.moe(weights, options.compute)?,
            },
            communicator: communicator.clone(),
        })
    }

    /// `[num_tokens, hidden]` to the same.
    pub(super) fn forward(&self, hidden_states: &Tensor) -> Result<Tensor, ModelError> {
        let router_logits = self.router.forward(hidden_states)?; // [num_tokens, experts]
        let part = self.experts.forward(hidden_states, &router_logits)?;
        Ok(self.communicator.all_reduce(part)?)
    }
}
