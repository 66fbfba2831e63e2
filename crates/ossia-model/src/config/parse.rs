//! From the JSON of config.json to [`GptOssConfig`], refusing what the model does not do.

use ossia_kernels::SWIGLU_ALPHA;
use serde_json::Value;

use super::fields::Fields;
use super::{GptOssConfig, LayerType, YarnConfig};
use crate::ModelError;

/// Parses and validates; see [`GptOssConfig::from_json`].
pub(super) fn parse(document: &Value) -> Result<GptOssConfig, ModelError> {
    let fields = Fields::new("", document)?;
    refuse_other_models(&fields)?;
    let num_hidden_layers = fields.count("num_hidden_layers")?;
    let max_position_embeddings = fields.count("max_position_embeddings")?;
    let config = GptOssConfig {
        vocab_size: fields.count("vocab_size")?,
        hidden_size: fields.count("hidden_size")?,
        intermediate_size: fields.count("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads: fields.count("num_attention_heads")?,
        num_key_value_heads: fields.count("num_key_value_heads")?,
        head_dim: fields.count("head_dim")?,
        num_local_experts: fields.count("num_local_experts")?,
        experts_per_token: experts_per_token(&fields)?,
        sliding_window: fields.count("sliding_window")?,
        layer_types: layer_types(&fields, num_hidden_layers)?,
        rms_norm_eps: fields.optional_positive("rms_norm_eps")?.unwrap_or(1e-5),
        swiglu_limit: fields.optional_positive("swiglu_limit")?.unwrap_or(7.0) as f32,
        rope_theta: rope_theta(&fields)?,
        rope_scaling: rope_scaling(&fields, max_position_embeddings)?,
        max_position_embeddings,
        tie_word_embeddings: fields.optional_bool("tie_word_embeddings")?.unwrap_or(false),
        eos_token_ids: fields.token_ids("eos_token_id")?,
        pad_token_id: fields.token_ids("pad_token_id")?.first().copied(),
    };
    validate(&fields, &config)?;
    Ok(config)
}

/// What this crate cannot run is refused by name, before any arithmetic goes quietly wrong.
fn refuse_other_models(fields: &Fields) -> Result<(), ModelError> {
    match fields.optional_str("model_type")? {
        Some("gpt_oss") => {}
        Some(other) => {
            return Err(ModelError::UnsupportedModel { model_type: other.to_owned() });
        }
        None => return Err(fields.error("model_type", "is missing, expected \"gpt_oss\"")),
    }
    if fields.optional_bool("attention_bias")? == Some(false) {
        return Err(fields.error("attention_bias", "is false: gpt-oss has biases on q, k, v and o"));
    }
    if let Some(act) = fields.optional_str("hidden_act")?.filter(|&act| act != "silu") {
        return Err(fields.error("hidden_act", format!("is \"{act}\", expected \"silu\"")));
    }
    if let Some(alpha) =
        fields.optional_positive("swiglu_alpha")?.filter(|&alpha| alpha as f32 != SWIGLU_ALPHA)
    {
        return Err(fields.error("swiglu_alpha", format!("is {alpha}, expected {SWIGLU_ALPHA}")));
    }
    let Some(quantization) = fields.get("quantization_config") else {
        return Ok(());
    };
    let quantization = Fields::new("quantization_config", quantization)?;
    match quantization.optional_str("quant_method")? {
        None | Some("mxfp4") => Ok(()),
        Some(other) => Err(quantization.error("quant_method", format!("is \"{other}\", expected \"mxfp4\""))),
    }
}

/// The field has two spellings; a file may hold both, and then they must agree.
fn experts_per_token(fields: &Fields) -> Result<usize, ModelError> {
    let older = fields.optional_count("experts_per_token")?;
    let newer = fields.optional_count("num_experts_per_tok")?;
    match (newer, older) {
        (Some(a), Some(b)) if a != b => {
            Err(fields.error("experts_per_token", format!("is {b}, but num_experts_per_tok is {a}")))
        }
        (Some(count), _) | (None, Some(count)) => Ok(count),
        (None, None) => Err(fields.error("num_experts_per_tok", "is missing (so is experts_per_token)")),
    }
}

/// As given, or alternating from sliding.
fn layer_types(fields: &Fields, num_hidden_layers: usize) -> Result<Vec<LayerType>, ModelError> {
    let Some(given) = fields.get("layer_types") else {
        let alternate = |layer_idx| {
            if layer_idx % 2 == 0 { LayerType::Sliding } else { LayerType::Full }
        };
        return Ok((0..num_hidden_layers).map(alternate).collect());
    };
    let given = given.as_array().ok_or_else(|| fields.error("layer_types", "is not a list"))?;
    if given.len() != num_hidden_layers {
        let message = format!("has {} entries, but num_hidden_layers is {num_hidden_layers}", given.len());
        return Err(fields.error("layer_types", message));
    }
    let parse_one = |value: &Value| match value.as_str() {
        Some("sliding_attention") => Ok(LayerType::Sliding),
        Some("full_attention") => Ok(LayerType::Full),
        _ => Err(fields.error(
            "layer_types",
            format!("contains {value}, expected \"sliding_attention\" or \"full_attention\""),
        )),
    };
    given.iter().map(parse_one).collect()
}

/// transformers 4 wrote `rope_scaling`, transformers 5 writes `rope_parameters`.
fn rope_fields<'a>(fields: &Fields<'a>) -> Result<Option<Fields<'a>>, ModelError> {
    for name in ["rope_parameters", "rope_scaling"] {
        if let Some(value) = fields.get(name) {
            return Fields::new(name, value).map(Some);
        }
    }
    Ok(None)
}

/// In `rope_parameters` with transformers 5, at the top level before.
fn rope_theta(fields: &Fields) -> Result<f64, ModelError> {
    if let Some(rope) = rope_fields(fields)?
        && let Some(theta) = rope.optional_positive("rope_theta")?
    {
        return Ok(theta);
    }
    Ok(fields.optional_positive("rope_theta")?.unwrap_or(150_000.0))
}

fn rope_scaling(fields: &Fields, max_position_embeddings: usize) -> Result<Option<YarnConfig>, ModelError> {
    let Some(rope) = rope_fields(fields)? else { return Ok(Some(YarnConfig::of_gpt_oss())) };
    let rope_type = match rope.optional_str("rope_type")? {
        Some(rope_type) => rope_type,
        None => rope.optional_str("type")?.unwrap_or("default"),
    };
    match rope_type {
        "default" => return Ok(None),
        "yarn" => {}
        other => {
            return Err(rope.error("rope_type", format!("is \"{other}\", expected \"yarn\" or \"default\"")));
        }
    }
    for unsupported in ["mscale", "mscale_all_dim"] {
        if rope.get(unsupported).is_some() {
            return Err(rope.error(unsupported, "is not supported: gpt-oss checkpoints have none"));
        }
    }
    let factor = rope.positive("factor")?;
    let original =
        rope.optional_count("original_max_position_embeddings")?.unwrap_or(max_position_embeddings);
    let yarn = YarnConfig {
        factor,
        original_max_position_embeddings: original,
        beta_fast: rope.optional_positive("beta_fast")?.unwrap_or(32.0),
        beta_slow: rope.optional_positive("beta_slow")?.unwrap_or(1.0),
        truncate: rope.optional_bool("truncate")?.unwrap_or(true),
        attention_factor: rope
            .optional_positive("attention_factor")?
            .unwrap_or(YarnConfig::attention_factor_of(factor)),
    };
    Ok(Some(yarn))
}

/// Relations between fields.
fn validate(fields: &Fields, config: &GptOssConfig) -> Result<(), ModelError> {
    let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
    if !heads.is_multiple_of(kv_heads) {
        let message = format!("is {kv_heads}, which does not divide num_attention_heads = {heads}");
        return Err(fields.error("num_key_value_heads", message));
    }
    if !config.head_dim.is_multiple_of(2) {
        return Err(fields.error("head_dim", format!("is {}, expected an even number", config.head_dim)));
    }
    let (chosen, experts) = (config.experts_per_token, config.num_local_experts);
    if chosen > experts {
        return Err(
            fields.error("experts_per_token", format!("is {chosen}, but num_local_experts is {experts}"))
        );
    }
    Ok(())
}
