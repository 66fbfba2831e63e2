//! Grouped-query attention with sinks over the paged cache.

use candle_core::Tensor;
use ossia_kernels::{
    Attention as AttentionOp, AttentionSpec, Communicator, CosSin, LayerCache, Linear, Qkv, forward_all,
};

use super::{AttentionBatches, Shard};
use crate::config::LayerType;
use crate::weights::{Extent, Loader};
use crate::{KvCache, ModelError};

pub(super) struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    attention: AttentionOp,
    layer_type: LayerType,
    /// Which of its group's layers this is: the index of its cache.
    group_layer_idx: usize,
    communicator: Communicator,
}

impl Attention {
    pub(super) fn load(shard: &Shard, layer_idx: usize, loader: &mut Loader) -> Result<Self, ModelError> {
        let Shard { config, options, communicator } = shard;
        let prefix = format!("model.layers.{layer_idx}.self_attn");
        let (heads, kv_heads) =
            (shard.even(config.num_attention_heads), shard.even(config.num_key_value_heads));
        let hidden = Extent::from(config.hidden_size);
        let (q_size, kv_size) = (heads.times(config.head_dim), kv_heads.times(config.head_dim));
        let mut proj = |name: &str, rows: &Extent, cols: &Extent| -> Result<Linear, ModelError> {
            let weight =
                loader.matrix(&format!("{prefix}.{name}_proj.weight"), rows.clone(), cols.clone())?;
            let bias = loader.vector(&format!("{prefix}.{name}_proj.bias"), [rows.clone()])?;
            let bias = if name == "o" { shard.bias_of_sum(bias) } else { bias };
            Ok(options.backend.linear(options.keep_attention(weight), Some(bias), options.compute)?)
        };
        let layer_type = config.layer_types[layer_idx];
        Ok(Self {
            q_proj: proj("q", &q_size, &hidden)?,
            k_proj: proj("k", &kv_size, &hidden)?,
            v_proj: proj("v", &kv_size, &hidden)?,
            o_proj: proj("o", &hidden, &q_size)?,
            attention: options.backend.attention(AttentionSpec {
                num_attention_heads: heads.len(),
                num_key_value_heads: kv_heads.len(),
                head_dim: config.head_dim,
                sinks: loader.vector(&format!("{prefix}.sinks"), [heads])?,
                sliding_window: (layer_type == LayerType::Sliding).then_some(config.sliding_window),
            })?,
            layer_type,
            group_layer_idx: config.layer_types[..layer_idx].iter().filter(|&&t| t == layer_type).count(),
            communicator: communicator.clone(),
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
        Ok(self.communicator.all_reduce(self.o_proj.forward(&attn)?)?)
    }
}
