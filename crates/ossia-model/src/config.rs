//! config.json of a gpt-oss checkpoint, parsed once into values that cannot be wrong.

mod fields;
mod parse;
#[cfg(test)]
mod tests;
mod write;

use std::path::Path;

use ossia_kernels::CacheType;

use crate::{ModelError, kv_cache};

/// What a layer's attention may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerType {
    /// The query itself and the `sliding_window - 1` positions before it.
    Sliding,
    /// Everything up to the query.
    Full,
}

/// YaRN: rotary embedding stretched beyond the context the model was first trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct YarnConfig {
    /// How many times longer the context has become.
    pub factor: f64,
    /// Context of the first training, in tokens.
    pub original_max_position_embeddings: usize,
    /// Rotations over the original context above which a frequency is kept as it is.
    pub beta_fast: f64,
    /// Rotations over the original context below which a frequency is divided by `factor`.
    pub beta_slow: f64,
    /// Whether the two bounds are rounded to whole dimensions (gpt-oss: no).
    pub truncate: bool,
    /// Scale of cos and sin; `0.1 ln(factor) + 1` unless the file says otherwise.
    pub attention_factor: f64,
}

impl YarnConfig {
    /// What gpt-oss was trained with: 4096 positions, stretched to 131072.
    pub(crate) fn of_gpt_oss() -> Self {
        Self {
            factor: 32.0,
            original_max_position_embeddings: 4096,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: false,
            attention_factor: Self::attention_factor_of(32.0),
        }
    }

    /// YaRN's recommendation for a stretch by `factor`.
    pub(crate) fn attention_factor_of(factor: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
    }
}

/// Architecture of a gpt-oss checkpoint. Names are those of config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct GptOssConfig {
    /// Rows of the embedding and of lm_head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads, a divisor of `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// Experts per layer.
    pub num_local_experts: usize,
    /// Experts chosen per token.
    pub experts_per_token: usize,
    /// Positions a sliding layer sees, the query's own included.
    pub sliding_window: usize,
    /// One per layer.
    pub layer_types: Vec<LayerType>,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Clamp of the experts' gate (above) and up (both sides).
    pub swiglu_limit: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary embedding; `None` for a plain one (`rope_type: default`).
    pub rope_scaling: Option<YarnConfig>,
    /// Longest context.
    pub max_position_embeddings: usize,
    /// Whether lm_head is the embedding.
    pub tie_word_embeddings: bool,
    /// `eos_token_id` of config.json: one, several or none.
    pub eos_token_ids: Vec<u32>,
    /// `pad_token_id` of config.json.
    pub pad_token_id: Option<u32>,
}

impl GptOssConfig {
    /// Reads and validates config.json.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Json`], and those of [`Self::from_json`].
    pub fn from_file(path: &Path) -> Result<Self, ModelError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| ModelError::Io { path: path.into(), source })?;
        let value = serde_json::from_str(&text)
            .map_err(|error| ModelError::Json { path: path.into(), message: error.to_string() })?;
        parse::parse(&value)
    }

    /// Validates the text of a config.json.
    ///
    /// # Errors
    /// [`ModelError::Json`], [`ModelError::UnsupportedModel`], or [`ModelError::Config`] naming the field.
    pub fn from_json(text: &str) -> Result<Self, ModelError> {
        let value = serde_json::from_str(text)
            .map_err(|error| ModelError::Json { path: "config.json".into(), message: error.to_string() })?;
        parse::parse(&value)
    }

    /// The text of a config.json that [`Self::from_json`] and transformers read back as this configuration.
    /// `mxfp4` says whether the experts are stored in MXFP4.
    pub fn to_json(&self, mxfp4: bool) -> String {
        write::to_json(self, mxfp4)
    }

    /// Layers of the given type.
    pub fn num_layers_of(&self, layer_type: LayerType) -> usize {
        self.layer_types.iter().filter(|&&found| found == layer_type).count()
    }

    /// Width of all query heads together.
    pub fn q_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Bytes that one block of a KV cache takes over all layers.
    pub fn kv_bytes_per_block(&self, cache: CacheType, block_size: usize) -> usize {
        kv_cache::bytes_per_block(self, cache, block_size)
    }
}
