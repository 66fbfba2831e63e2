//! Grouped-query attention with sinks over the paged cache.

use candle_core::Tensor;
use ossia_kernels::{Attention as AttentionOp, AttentionSpec, CosSin, LayerCache, Linear, Qkv, forward_all};

use super::{AttentionBatches, ModelOptions};
use crate::config::LayerType;
use crate::weights::Loader;
use crate::{GptOssConfig, KvCache, ModelError};

pub(super) struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    attention: AttentionOp,
    layer_type: LayerType,
    /// Which of its group's layers this is: the index of its cache.
    group_layer_idx: usize,
}

impl Attention {
    pub(super) fn load(
        config: &GptOssConfig,
        options: &ModelOptions,
        layer_idx: usize,
        loader: &mut Loader,
    ) -> Result<Self, ModelError> {
        let prefix = format!("model.layers.{layer_idx}.self_attn");
        let (hidden, q_size, kv_size) = (config.hidden_size, config.q_size(), config.kv_size());
        let mut proj = |name: &str, rows: usize, cols: usize| -> Result<Linear, ModelError> {
            let weight = loader.matrix(&format!("{prefix}.{name}_proj.weight"), rows, cols)?;
            let bias = loader.vector(&format!("{prefix}.{name}_proj.bias"), &[rows])?;
            Ok(options.backend.linear(options.keep_attention(weight), Some(bias), options.compute)?)
        };
        let layer_type = config.layer_types[layer_idx];
        Ok(Self {
            q_proj: proj("q", q_size, hidden)?,
            k_proj: proj("k", kv_size, hidden)?,
            v_proj: proj("v", kv_size, hidden)?,
            o_proj: proj("o", hidden, q_size)?,
            attention: options.backend.attention(AttentionSpec {
                num_attention_heads: config.num_attention_heads,
                num_key_value_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
                sinks: loader.vector(&format!("{prefix}.sinks"), &[config.num_attention_heads])?,
                sliding_window: (layer_type == LayerType::Sliding).then_some(config.sliding_window),
            })?,
            layer_type,
            group_layer_idx: config.layer_types[..layer_idx].iter().filter(|&&t| t == layer_type).count(),
        })
    }

    /// `[num_tokens, hidden]` to the same; writes the tokens' keys and values into the cache.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        rotary: &CosSin,
        batches: &AttentionBatches,
        kv: &KvCache,
    ) -> Result<Tensor, ModelError> {
        // [num_tokens, heads * head_dim] and twice [num_tokens, kv_heads * head_dim].
        let [q, k, v] = forward_all([&self.q_proj, &self.k_proj, &self.v_proj], hidden_states)?;
        let qkv = Qkv { q, k, v };
        let batch = match self.layer_type {
            LayerType::Full => &batches.full,
            LayerType::Sliding => &batches.sliding,
        };
        let (k, v) = kv.layer(self.group_layer_idx)?;
        // Rotates q and k, writes k and v into the cache, attends: [num_tokens, heads * head_dim].
        let attn = self.attention.forward(&qkv, rotary, LayerCache { k, v }, batch)?;
        Ok(self.o_proj.forward(&attn)?)
    }
}
