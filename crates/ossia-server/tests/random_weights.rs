//! A model of random weights at temperature 2 says nothing but noise; under the grammar of the turn it still makes
//! well-formed calls with valid arguments, and answers that have the format.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "../../ossia-harmony/tests/common/schema.rs"]
mod schema;

use common::{TestServer, tokenizer};
use futures::StreamExt;
use ossia_engine::GptOssRunner;
use ossia_harmony::{SpecialToken, Tokenizer};
use ossia_model::{GptOss, GptOssConfig, ModelOptions};
use ossia_server::ServerConfig;
use serde_json::{Value, json};

/// Length of gpt-oss's logits: its vocabulary is padded.
const PADDED_VOCAB_SIZE: usize = 201_088;
const NUM_TURNS: usize = 200;
/// More than the longest text that the schemas allow.
const MAX_TOKENS: usize = 2000;

/// The whole vocabulary, padded as gpt-oss's is.
fn whole() -> TestServer {
    server(tokenizer::o200k(), PADDED_VOCAB_SIZE)
}

/// The first tokens of it.
fn small() -> TestServer {
    let tokenizer = tokenizer::small();
    let vocab_size = tokenizer.vocab_size();
    server(tokenizer, vocab_size)
}

/// gpt-oss in miniature with random weights.
fn server(tokenizer: Tokenizer, vocab_size: usize) -> TestServer {
    let config = json!({
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"],
        "vocab_size": vocab_size, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
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

/// The items of a response but the chain of thought, which comes first and keeps to its budget.
fn said(answer: &Value) -> Vec<&Value> {
    assert_eq!(answer["status"], "completed", "{answer}");
    let details = &answer["usage"]["output_tokens_details"];
    assert!(details["reasoning_tokens"].as_u64().unwrap() <= 12, "{details}");
    let (thoughts, said): (Vec<_>, Vec<_>) =
        answer["output"].as_array().unwrap().iter().partition(|item| item["type"] == "reasoning");
    assert!(answer["output"].as_array().unwrap().iter().take(thoughts.len()).eq(thoughts), "{answer}");
    said
}

/// Checks that these are calls, all whole and valid; gives their number.
fn check_calls(items: &[&Value]) -> usize {
    for call in items {
        assert_eq!((&call["type"], &call["status"]), (&json!("function_call"), &json!("completed")));
        check_arguments(&call["name"], &call["arguments"]);
    }
    items.len()
}

/// Checks the calls of a chat message; gives their number.
fn check_chat_calls(message: &Value) -> usize {
    let calls = message["tool_calls"].as_array().unwrap();
    calls.iter().for_each(|call| check_arguments(&call["function"]["name"], &call["function"]["arguments"]));
    calls.len()
}

fn check_booking(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text:?} is no JSON"));
    assert!(schema::is_valid(&booking(), &value), "{value}");
}

/// A turn that has to call; the number of its calls.
async fn called(server: &TestServer, i: usize) -> usize {
    if !i.is_multiple_of(4) {
        let answer = server.ok("/v1/responses", &response_request(i)).await;
        return check_calls(&said(&answer));
    }
    let answer = server.ok("/v1/chat/completions", &chat_request(i)).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    check_chat_calls(&choice["message"])
}

/// A turn that has tools and a format and may choose; whether it answered. `message` is the token before contents:
/// unlikely as it is made, a header takes every other way there is, so that there is no text for the user before a
/// call, which noise would never end.
async fn chosen(server: &TestServer, message: u32, i: usize) -> bool {
    let mut request = chat_request(i);
    request["tool_choice"] = "auto".into();
    request["logit_bias"] = json!({message.to_string(): -100});
    request["response_format"] = json!({"type": "json_schema", "json_schema": {"name": "booking", "strict": true, "schema": booking()}});
    let answer = server.ok("/v1/chat/completions", &request).await;
    let choice = &answer["choices"][0];
    if let Some(text) = choice["message"]["content"].as_str() {
        assert_eq!((&choice["finish_reason"], choice["message"].get("tool_calls")), (&json!("stop"), None));
        check_booking(text);
        return true;
    }
    assert_eq!(choice["finish_reason"], "tool_calls");
    check_chat_calls(&choice["message"]);
    false
}

async fn answered(server: &TestServer, i: usize) {
    let mut request = response_request(i);
    request["tools"] = json!([]);
    request["tool_choice"] = "auto".into();
    let answer = server.ok("/v1/responses", &request).await;
    let [message] = said(&answer)[..] else { panic!("{answer}") };
    check_booking(message["content"][0]["text"].as_str().unwrap());
}

async fn check_calls_of(server: TestServer) {
    let turns = futures::stream::iter(0..NUM_TURNS).map(|i| called(&server, i));
    let calls: Vec<usize> = turns.buffer_unordered(16).collect().await;
    assert!(calls.len() == NUM_TURNS && calls.iter().all(|&num| num > 0));
    assert!(calls.iter().any(|&num| num > 1), "some turns call several times");
}

async fn check_answers_of(server: TestServer) {
    let turns = futures::stream::iter(0..NUM_TURNS).map(|i| answered(&server, i));
    assert_eq!(turns.buffer_unordered(16).count().await, NUM_TURNS);
}

async fn check_choices_of(server: TestServer, message: u32) {
    let turns = futures::stream::iter(0..NUM_TURNS).map(|i| chosen(&server, message, i));
    let answers: Vec<bool> = turns.buffer_unordered(16).collect().await;
    let num_answers = answers.iter().filter(|&&answered| answered).count();
    assert!(answers.len() == NUM_TURNS && (20..180).contains(&num_answers), "{num_answers} answers");
}

#[tokio::test]
async fn noise_makes_valid_calls() {
    check_calls_of(small()).await;
}

#[tokio::test]
async fn noise_makes_valid_answers() {
    check_answers_of(small()).await;
}

#[tokio::test]
async fn noise_makes_valid_turns_of_either_kind() {
    check_choices_of(small(), tokenizer::small().special(SpecialToken::Message)).await;
}

/// The same with all tokens of gpt-oss, a minute or more of each: `cargo xtask test --thorough`.
#[tokio::test]
#[ignore = "slow"]
async fn noise_of_the_whole_vocabulary_makes_valid_turns() {
    check_calls_of(whole()).await;
    check_answers_of(whole()).await;
    check_choices_of(whole(), tokenizer::o200k().special(SpecialToken::Message)).await;
}
