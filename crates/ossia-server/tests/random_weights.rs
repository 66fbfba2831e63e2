//! A model of random weights at temperature 2 says nothing but noise; under the grammar of the turn it still makes
//! well-formed calls with valid arguments, and answers that have the format.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../ossia-harmony/tests/common/schema.rs"]
mod schema;

use common::{TestServer, tokenizer};
use futures::StreamExt;
use ossia_engine::GptOssRunner;
use ossia_model::{GptOss, GptOssConfig, ModelOptions};
use ossia_server::ServerConfig;
use serde_json::{Value, json};

const NUM_CALLS: usize = 200;
const NUM_ANSWERS: usize = 100;
/// More than the longest text that the schemas allow.
const MAX_TOKENS: usize = 2000;

/// gpt-oss in miniature with `vocab_size` tokens and random weights.
fn server() -> TestServer {
    let tokenizer = tokenizer::small();
    let config = json!({
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"],
        "vocab_size": tokenizer.vocab_size(), "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "num_local_experts": 4, "num_experts_per_tok": 2, "experts_per_token": 2,
        "sliding_window": 32, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "swiglu_limit": 7.0,
        "attention_bias": true, "attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02,
        "initial_context_length": 4096, "tie_word_embeddings": false, "rope_theta": 150000,
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
            "truncate": false, "original_max_position_embeddings": 4096},
        "eos_token_id": 2, "pad_token_id": 1});
    let config = GptOssConfig::from_json(&config.to_string()).unwrap();
    let model = GptOss::dummy(config, 11, &ModelOptions::default()).unwrap();
    let runner = GptOssRunner::new(model, 8192, 16).unwrap();
    TestServer::of_runner(Box::new(runner), tokenizer, ServerConfig::default())
}

fn booking() -> Value {
    json!({"type": "object", "properties": {
        "guest": {"type": "string", "minLength": 1, "maxLength": 16},
        "nights": {"type": "integer", "minimum": 1, "maximum": 30},
        "room": {"enum": ["single", "double", "suite"]},
        "extras": {"type": "array", "maxItems": 3, "items": {"type": "object", "properties": {
            "name": {"type": "string", "maxLength": 8}, "paid": {"type": "boolean"}},
            "required": ["name", "paid"], "additionalProperties": false}}},
        "required": ["guest", "nights", "room", "extras"], "additionalProperties": false})
}

fn search() -> Value {
    json!({"type": "object", "properties": {"query": {"type": "string", "maxLength": 20}, "limit": {"type": ["integer", "null"], "minimum": 0, "maximum": 99}},
        "required": ["query", "limit"], "additionalProperties": false})
}

fn schema_of(tool: &str) -> Value {
    if tool == "book" { booking() } else { search() }
}

/// Either no thought at all or little of it: random tokens would not end it in time.
fn reasoning(i: usize) -> Value {
    if i.is_multiple_of(2) { json!({"effort": "none"}) } else { json!({"effort": "low", "max_tokens": 12}) }
}

fn response_request(i: usize) -> Value {
    let function =
        |name: &str| json!({"type": "function", "name": name, "strict": true, "parameters": schema_of(name)});
    json!({"input": format!("Request {i}"), "temperature": 2, "seed": i, "max_output_tokens": MAX_TOKENS, "store": false,
        "reasoning": reasoning(i), "tools": [function("book"), function("search")], "tool_choice": "required",
        "text": {"format": {"type": "json_schema", "name": "booking", "strict": true, "schema": booking()}}})
}

fn chat_request(i: usize) -> Value {
    let function = |name: &str| json!({"type": "function", "function": {"name": name, "strict": true, "parameters": schema_of(name)}});
    json!({"messages": [{"role": "user", "content": format!("Request {i}")}], "temperature": 2, "seed": i,
        "max_tokens": MAX_TOKENS, "reasoning_effort": reasoning(i)["effort"], "reasoning": reasoning(i),
        "tools": [function("book"), function("search")], "tool_choice": "required"})
}

fn check_arguments(name: &Value, arguments: &Value) {
    let value: Value = serde_json::from_str(arguments.as_str().unwrap()).unwrap();
    assert!(schema::is_valid(&schema_of(name.as_str().unwrap()), &value), "{name}: {value}");
}

async fn check_call(server: &TestServer, i: usize) {
    if i.is_multiple_of(4) {
        let answer = server.ok("/v1/chat/completions", &chat_request(i)).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        return check_arguments(&call["name"], &call["arguments"]);
    }
    let answer = server.ok("/v1/responses", &response_request(i)).await;
    assert_eq!(answer["status"], "completed", "{answer}");
    let (call, before) = answer["output"].as_array().unwrap().split_last().unwrap();
    assert!(before.iter().all(|item| item["type"] == "reasoning"), "{answer}");
    assert_eq!((&call["type"], &call["status"]), (&json!("function_call"), &json!("completed")));
    check_arguments(&call["name"], &call["arguments"]);
    let details = &answer["usage"]["output_tokens_details"];
    assert!(details["reasoning_tokens"].as_u64().unwrap() <= 12, "{details}");
}

async fn check_answer(server: &TestServer, i: usize) {
    let mut request = response_request(i);
    request["tools"] = json!([]);
    request["tool_choice"] = "auto".into();
    let answer = server.ok("/v1/responses", &request).await;
    assert_eq!(answer["status"], "completed", "{answer}");
    let message = answer["output"].as_array().unwrap().last().unwrap();
    let text = message["content"][0]["text"].as_str().unwrap();
    let value: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text:?} is no JSON"));
    assert!(schema::is_valid(&booking(), &value), "{value}");
}

#[tokio::test]
async fn noise_makes_valid_calls() {
    let server = server();
    let turns = futures::stream::iter(0..NUM_CALLS).map(|i| check_call(&server, i));
    assert_eq!(turns.buffer_unordered(16).count().await, NUM_CALLS);
}

#[tokio::test]
async fn noise_makes_valid_answers() {
    let server = server();
    let turns = futures::stream::iter(0..NUM_ANSWERS).map(|i| check_answer(&server, i));
    assert_eq!(turns.buffer_unordered(16).count().await, NUM_ANSWERS);
}
