//! config.json as found in the wild, and what is refused.

use serde_json::{Value, json};

use super::{GptOssConfig, LayerType, YarnConfig};
use crate::ModelError;

/// The config.json of openai/gpt-oss-20b, less what says nothing about the model.
fn gpt_oss_20b() -> Value {
    json!({
        "attention_bias": true, "eos_token_id": 200002, "experts_per_token": 4, "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2880, "initial_context_length": 4096, "intermediate_size": 2880,
        "layer_types": (0..24).map(|i| ["sliding_attention", "full_attention"][i % 2]).collect::<Vec<_>>(),
        "max_position_embeddings": 131072, "model_type": "gpt_oss", "num_attention_heads": 64,
        "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 8, "num_local_experts": 32,
        "pad_token_id": 199999, "quantization_config": {"quant_method": "mxfp4"}, "rms_norm_eps": 1e-5,
        "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0,
            "original_max_position_embeddings": 4096, "rope_type": "yarn", "truncate": false},
        "rope_theta": 150000, "sliding_window": 128, "swiglu_limit": 7.0, "tie_word_embeddings": false,
        "vocab_size": 201088,
    })
}

fn parse(document: &Value) -> Result<GptOssConfig, ModelError> {
    GptOssConfig::from_json(&document.to_string())
}

/// gpt-oss-20b with some fields changed; null takes a field away.
fn with(changes: Value) -> Value {
    let mut document = gpt_oss_20b();
    for (name, value) in changes.as_object().expect("an object") {
        document[name] = value.clone();
        if value.is_null() {
            document.as_object_mut().expect("an object").remove(name);
        }
    }
    document
}

#[test]
fn gpt_oss_20b_is_read() {
    let config = parse(&gpt_oss_20b()).expect("a good file");
    assert_eq!((config.q_size(), config.kv_size(), config.num_layers_of(LayerType::Full)), (4096, 512, 12));
    assert_eq!(config.rope_scaling, Some(YarnConfig::of_gpt_oss()));
    assert_eq!(config.eos_token_ids, [200_002]);
    let attention_factor = config.rope_scaling.expect("yarn").attention_factor;
    assert!((attention_factor - 1.346_573_590_279_972_7).abs() < 1e-12);
}

#[test]
fn other_spellings_mean_the_same() {
    let expected = parse(&gpt_oss_20b()).expect("a good file");
    let yarn = gpt_oss_20b()["rope_scaling"].clone();
    let mut parameters = yarn.clone();
    parameters["rope_theta"] = json!(150000.0);
    let mut older = yarn;
    older["type"] = older["rope_type"].take();
    for changes in [
        json!({ "experts_per_token": null }),
        json!({ "num_experts_per_tok": null }),
        json!({ "layer_types": null }),
        json!({ "rope_scaling": null, "rope_theta": null }),
        json!({ "rope_scaling": null, "rope_theta": null, "rope_parameters": parameters }),
        json!({ "rope_scaling": older }),
        json!({ "quantization_config": null, "rms_norm_eps": null, "swiglu_limit": null, "swiglu_alpha": 1.702 }),
    ] {
        assert_eq!(parse(&with(changes.clone())).expect("a good file"), expected, "{changes}");
    }
    let plain = parse(&with(json!({ "rope_scaling": {"rope_type": "default"} }))).expect("a good file");
    assert_eq!(plain.rope_scaling, None);
    let several = parse(&with(json!({ "eos_token_id": [1, 2] }))).expect("a good file");
    assert_eq!(several.eos_token_ids, [1, 2]);
}

#[test]
fn what_is_written_is_read_back() {
    for changes in [json!({}), json!({ "eos_token_id": [1, 2], "rope_scaling": {"rope_type": "default"} })] {
        let config = parse(&with(changes)).expect("a good file");
        assert_eq!(GptOssConfig::from_json(&config.to_json(true)).expect("a good file"), config);
    }
}

#[test]
fn errors_name_the_field() {
    for (changes, expected) in [
        (json!({ "hidden_size": null }), "hidden_size"),
        (json!({ "hidden_size": 0 }), "hidden_size"),
        (json!({ "hidden_size": -1 }), "hidden_size"),
        (json!({ "hidden_size": "2880" }), "hidden_size"),
        (json!({ "vocab_size": 1u64 << 40 }), "vocab_size"),
        (json!({ "num_key_value_heads": 7 }), "num_key_value_heads"),
        (json!({ "head_dim": 63 }), "head_dim"),
        (json!({ "experts_per_token": 8 }), "experts_per_token"),
        (json!({ "experts_per_token": null, "num_experts_per_tok": null }), "num_experts_per_tok"),
        (json!({ "experts_per_token": 33, "num_experts_per_tok": 33 }), "experts_per_token"),
        (json!({ "layer_types": ["full_attention"] }), "layer_types"),
        (json!({ "num_hidden_layers": 1, "layer_types": ["chunked_attention"] }), "layer_types"),
        (json!({ "rope_scaling": {"rope_type": "llama3"} }), "rope_scaling.rope_type"),
        (json!({ "rope_scaling": {"rope_type": "yarn"} }), "rope_scaling.factor"),
        (json!({ "rope_scaling": {"rope_type": "yarn", "factor": 0} }), "rope_scaling.factor"),
        (json!({ "rope_scaling": {"rope_type": "yarn", "factor": 2, "mscale": 1} }), "rope_scaling.mscale"),
        (json!({ "rope_scaling": 32 }), "rope_scaling"),
        (json!({ "quantization_config": {"quant_method": "awq"} }), "quantization_config.quant_method"),
        (json!({ "attention_bias": false }), "attention_bias"),
        (json!({ "hidden_act": "gelu" }), "hidden_act"),
        (json!({ "swiglu_alpha": 1.0 }), "swiglu_alpha"),
        (json!({ "model_type": null }), "model_type"),
        (json!({ "eos_token_id": "x" }), "eos_token_id"),
    ] {
        match parse(&with(changes.clone())) {
            Err(ModelError::Config { field, .. }) => assert_eq!(field, expected, "{changes}"),
            other => panic!("{changes}: {other:?}"),
        }
    }
}

#[test]
fn other_models_are_refused_by_name() {
    let error = parse(&with(json!({ "model_type": "llama" }))).expect_err("another model");
    assert!(error.to_string().contains("`llama`"));
    assert!(matches!(GptOssConfig::from_json("{"), Err(ModelError::Json { .. })));
    assert!(matches!(GptOssConfig::from_json("[]"), Err(ModelError::Config { .. })));
}
