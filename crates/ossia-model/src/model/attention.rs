//! Grouped-query attention with sinks over the paged cache.

use candle_core::Tensor;
use ossia_kernels::{AttentionLayer, AttentionMetadata, Linear, paged_attention, rope, write_kv};

use super::ModelOptions;
use super::rotary::CosSin;
use crate::config::LayerType;
use crate::weights::Loader;
use crate::{ForwardBatch, GptOssConfig, KvCache, ModelError};

pub(super) struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    /// One logit per query head.
    sinks: Vec<f32>,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    layer_type: LayerType,
    sliding_window: usize,
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
            Ok(Linear::new(options.keep_attention(weight), Some(bias), options.compute)?)
        };
        let layer_type = config.layer_types[layer_idx];
        Ok(Self {
            q_proj: proj("q", q_size, hidden)?,
            k_proj: proj("k", kv_size, hidden)?,
            v_proj: proj("v", kv_size, hidden)?,
            o_proj: proj("o", hidden, q_size)?,
            sinks: loader.vector(&format!("{prefix}.sinks"), &[config.num_attention_heads])?,
            num_attention_heads: config.num_attention_heads,
            num_key_value_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
            layer_type,
            sliding_window: config.sliding_window,
            group_layer_idx: config.layer_types[..layer_idx].iter().filter(|&&t| t == layer_type).count(),
        })
    }

    /// `[num_tokens, hidden]` to the same; writes the tokens' keys and values into the cache first.
    pub(super) fn forward(
        &self,
        hidden_states: &Tensor,
        rotary: &CosSin,
        batch: &ForwardBatch,
        kv: &KvCache,
    ) -> Result<Tensor, ModelError> {
        let num_tokens = batch.num_tokens();
        let heads = |x: Tensor, num_heads| x.reshape((num_tokens, num_heads, self.head_dim));
        let q = heads(self.q_proj.forward(hidden_states)?, self.num_attention_heads)?; // [n, heads, head_dim]
        let k = heads(self.k_proj.forward(hidden_states)?, self.num_key_value_heads)?; // [n, kv_heads, head_dim]
        let v = heads(self.v_proj.forward(hidden_states)?, self.num_key_value_heads)?; // [n, kv_heads, head_dim]
        let q = rope(&q, &rotary.cos, &rotary.sin)?;
        let k = rope(&k, &rotary.cos, &rotary.sin)?;

        let metadata = match self.layer_type {
            LayerType::Full => &batch.full,
            LayerType::Sliding => &batch.sliding,
        };
        let (k_cache, v_cache) = kv.layer(self.group_layer_idx)?;
        write_kv(&k, &v, k_cache, v_cache, &metadata.slot_mapping)?;
        let layer = AttentionLayer {
            sinks: &self.sinks,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            sliding_window: (self.layer_type == LayerType::Sliding).then_some(self.sliding_window),
        };
        let sequences = AttentionMetadata {
            cu_seqlens_q: &batch.cu_seqlens_q,
            context_lens: &batch.context_lens,
            block_tables: &metadata.block_tables,
        };
        let attn = paged_attention(&q, k_cache, v_cache, &layer, &sequences)?; // [n, heads * head_dim]
        Ok(self.o_proj.forward(&attn)?)
    }
}
