//! Fields of `/v1/chat/completions` one by one: the deprecated functions, obfuscation, several answers.
#![allow(clippy::unwrap_used)]

mod common;

use common::TestServer;
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

fn weather() -> Value {
    json!([{"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
        "required": ["city"]}}, {"name": "get_time"}])
}

#[tokio::test]
async fn deprecated_functions_are_answered_in_their_own_shape() {
    let server = TestServer::new("[]");
    let question = json!({"role": "user", "content": "Weather?"});
    let body = json!({"messages": [question], "functions": weather(), "temperature": 0});
    let first = server.ok(PATH, &body).await;
    let choice = &first["choices"][0];
    assert_eq!(choice["finish_reason"], "function_call");
    let call = json!({"name": "get_weather", "arguments": "{\"city\":\"text\"}"});
    assert_eq!(choice["message"]["function_call"], call);
    assert!(choice["message"].get("tool_calls").is_none());

    let events = server.stream(PATH, &body).await;
    let deltas = events.iter().map(|event| &event.data["choices"][0]["delta"]["function_call"]);
    let texts = |key: &str| deltas.clone().filter_map(|delta| delta[key].as_str()).collect::<String>();
    assert_eq!(json!({"name": texts("name"), "arguments": texts("arguments")}), call);
    assert_eq!(events.last().unwrap().data["choices"][0]["finish_reason"], "function_call");

    let result = json!({"role": "function", "name": "get_weather", "content": "Rain"});
    let messages = json!([question, choice["message"], result]);
    let second =
        server.ok(PATH, &json!({"messages": messages, "functions": weather(), "temperature": 0})).await;
    assert_eq!(second["choices"][0]["message"]["content"], "The tool says: Rain");
    assert_eq!(second["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn function_call_chooses() {
    let server = TestServer::new("[]");
    for (choice, name) in [(json!("none"), None), (json!({"name": "get_time"}), Some("get_time"))] {
        let messages = json!([{"role": "user", "content": "Weather?"}]);
        let body = json!({"messages": messages, "functions": weather(), "function_call": choice});
        let message = &server.ok(PATH, &body).await["choices"][0]["message"];
        assert_eq!(message["function_call"]["name"].as_str(), name, "{message}");
    }
}

#[tokio::test]
async fn obfuscation_levels_the_length_of_text() {
    let server = TestServer::new("[]");
    let messages = json!([{"role": "user", "content": "hi there"}]);
    let options = json!({"include_obfuscation": true, "include_usage": true});
    let padded = server.stream(PATH, &json!({"messages": messages, "stream_options": options})).await;
    for event in &padded[..padded.len() - 1] {
        let delta = &event.data["choices"][0]["delta"];
        let text = delta["content"].as_str().or(delta["reasoning"].as_str()).unwrap_or_default();
        let padding = event.data["obfuscation"].as_str().unwrap();
        assert!(!padding.is_empty() && (text.len() + padding.len()) % 32 == 0, "{}", event.data);
    }
    let plain = server.stream(PATH, &json!({"messages": messages})).await;
    assert!(plain.iter().all(|event| event.data.get("obfuscation").is_none()));
}

#[tokio::test]
async fn several_answers_compute_the_prompt_once() {
    let server = TestServer::new(r#"[{"pattern": "long", "text": "one two three"}]"#);
    let block_size = server.engine.spec().block_size;
    let long = format!("long {}", "words and words ".repeat(100));
    let body = json!({"messages": [{"role": "user", "content": long}], "n": 4});
    let answer = server.ok(PATH, &body).await;
    assert_eq!(answer["choices"].as_array().unwrap().len(), 4);
    let stats = server.engine.stats();
    let (prompt, generated) =
        (answer["usage"]["prompt_tokens"].as_u64().unwrap(), stats.num_generation_tokens_total);
    assert_eq!(stats.num_prompt_tokens_total, 4 * prompt);
    // Each of the others computes what does not fill a block, and at least one token.
    let again = stats.num_computed_tokens_total - prompt - generated;
    assert!(
        prompt > 10 * block_size as u64 && again <= 3 * block_size as u64,
        "{prompt} tokens, {again} again"
    );
}

#[tokio::test]
async fn reasoning_comes_back_under_either_name() {
    let server = TestServer::new("[]");
    let tool = json!({"type": "function", "function": {"name": "f"}});
    let call = json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]);
    let mut counts = Vec::new();
    for name in ["reasoning", "reasoning_content", "unknown"] {
        let assistant = json!({"role": "assistant", "tool_calls": call, name: "I have to think about this."});
        let result = json!({"role": "tool", "tool_call_id": "c", "content": "x"});
        let messages = json!([{"role": "user", "content": "hi"}, assistant, result]);
        let body = server.ok(PATH, &json!({"messages": messages, "tools": [tool]})).await;
        counts.push(body["usage"]["prompt_tokens"].as_u64().unwrap());
    }
    assert_eq!(counts[0], counts[1]);
    assert!(counts[0] > counts[2], "{counts:?}");
}
