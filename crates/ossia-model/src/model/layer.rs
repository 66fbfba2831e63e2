//! One layer: attention and experts, each behind a norm and beside a residual.

use ossia_kernels::{CosSin, RmsNorm};

use super::attention::Attention;
use super::mlp::Mlp;
use super::norm::load_norm;
use super::residual::ResidualStream;
use super::{AttentionBatches, Shard};
use crate::weights::Loader;
use crate::{KvCache, ModelError};

pub(super) struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl DecoderLayer {
    pub(super) fn load(shard: &Shard, layer_idx: usize, loader: &mut Loader) -> Result<Self, ModelError> {
        let prefix = format!("model.layers.{layer_idx}");
        let norm =
            |name: &str, loader: &mut Loader| load_norm(shard, &format!("{prefix}.{name}.weight"), loader);
        Ok(Self {
            input_layernorm: norm("input_layernorm", loader)?,
            self_attn: Attention::load(shard, layer_idx, loader)?,
            post_attention_layernorm: norm("post_attention_layernorm", loader)?,
            mlp: Mlp::load(shard, layer_idx, loader)?,
        })
    }

    /// Adds attention and experts to the residual stream.
    pub(super) fn forward(
        &self,
        stream: &mut ResidualStream,
        rotary: &CosSin,
        batches: &AttentionBatches,
        kv: &KvCache,
    ) -> Result<(), ModelError> {
        let hidden_states = stream.normalized(&self.input_layernorm)?;
        stream.add(self.self_attn.forward(&hidden_states, rotary, batches, kv)?)?;
        let hidden_states = stream.normalized(&self.post_attention_layernorm)?;
        stream.add(self.mlp.forward(&hidden_states)?)
    }
}
