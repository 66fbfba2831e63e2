//! From [`GptOssConfig`] back to the text of a config.json.

use serde_json::{Value, json};

use super::{GptOssConfig, LayerType, YarnConfig};

/// See [`GptOssConfig::to_json`].
pub(super) fn to_json(config: &GptOssConfig, mxfp4: bool) -> String {
    let layer_types: Vec<&str> =
        config.layer_types.iter().map(|&layer_type| layer_type_name(layer_type)).collect();
    let mut document = json!({
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": true,
        "experts_per_token": config.experts_per_token,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "layer_types": layer_types,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "gpt_oss",
        "num_attention_heads": config.num_attention_heads,
        "num_experts_per_tok": config.experts_per_token,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "num_local_experts": config.num_local_experts,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "sliding_window": config.sliding_window,
        "swiglu_limit": config.swiglu_limit,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": "bfloat16",
        "vocab_size": config.vocab_size,
    });
    document["rope_scaling"] = match &config.rope_scaling {
        Some(yarn) => yarn_json(yarn),
        None => json!({ "rope_type": "default" }),
    };
    match config.eos_token_ids.as_slice() {
        [] => {}
        [one] => document["eos_token_id"] = json!(one),
        several => document["eos_token_id"] = json!(several),
    }
    if let Some(pad) = config.pad_token_id {
        document["pad_token_id"] = json!(pad);
    }
    if mxfp4 {
        document["quantization_config"] = json!({
            "quant_method": "mxfp4",
            "modules_to_not_convert":
                ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"],
        });
    }
    format!("{document:#}\n")
}

fn layer_type_name(layer_type: LayerType) -> &'static str {
    match layer_type {
        LayerType::Sliding => "sliding_attention",
        LayerType::Full => "full_attention",
    }
}

fn yarn_json(yarn: &YarnConfig) -> Value {
    json!({
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_max_position_embeddings,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "truncate": yarn.truncate,
        "attention_factor": yarn.attention_factor,
    })
}
