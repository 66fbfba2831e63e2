//! One layer: attention and experts, each behind a norm and beside a residual.

use candle_core::Tensor;
use ossia_kernels::{CosSin, RmsNorm};

use super::attention::Attention;
use super::mlp::Mlp;
use super::norm::load_norm;
use super::{AttentionBatches, ModelOptions};
use crate::weights::Loader;
use crate::{GptOssConfig, KvCache, ModelError};

pub(super) struct DecoderLayer {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl DecoderLayer {
    pub(super) fn load(
        config: &GptOssConfig,
        options: &ModelOptions,
        layer_idx: usize,
        loader: &mut Loader,
    ) -> Result<Self, ModelError> {
        let prefix = format!("model.layers.{layer_idx}");
        let norm = |name: &str, loader: &mut Loader| {
            load_norm(config, options, &format!("{prefix}.{name}.weight"), loader)
        };
        Ok(Self {
            input_layernorm: norm("input_layernorm", loader)?,
            self_attn: Attention::load(config, options, layer_idx, loader)?,
            post_attention_layernorm: norm("post_attention_layernorm", loader)?,
            mlp: Mlp::load(config, options, layer_idx, loader)?,
        })
    }

    /// `[num_tokens, hidden]` to the same; the residual stream stays f32.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        rotary: &CosSin,
        batches: &AttentionBatches,
        kv: &KvCache,
    ) -> Result<Tensor, ModelError> {
        let attn =
            self.self_attn.forward(&self.input_layernorm.forward(hidden_states)?, rotary, batches, kv)?;
        let (hidden_states, normalized) = self.post_attention_layernorm.forward_sum(hidden_states, &attn)?;
        let mlp = self.mlp.forward(&normalized)?;
        Ok((hidden_states + mlp)?)
    }
}
