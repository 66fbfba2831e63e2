//! `/v1/chat/completions` end to end: engine, masks, parser and routes over the scripted runner.
#![allow(clippy::unwrap_used)]

mod common;

use common::TestServer;
use serde_json::{Value, json};

const PATH: &str = "/v1/chat/completions";

/// Harmony that a rule plays: chain of thought, then an answer.
const THINKING: &str = r#"[
    {"pattern": "sum", "text": "<|channel|>analysis<|message|>17 plus 25.<|end|><|start|>assistant<|channel|>final<|message|>It is 42, déjà vu 🦀.<|return|>"},
    {"pattern": "preamble", "text": "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Pa\"}<|call|>"},
    {"pattern": "count", "text": "one two three four five six"}
]"#;

fn ask(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0})
}

fn with(mut body: Value, fields: Value) -> Value {
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn weather_tool() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather",
        "description": "Current weather",
        "parameters": {"type": "object", "properties": {
            "city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}}})
}

fn time_tool() -> Value {
    json!({"type": "function", "function": {"name": "get_time"}})
}

/// What a client makes of the chunks of answer `index`.
fn fold(chunks: &[Value], index: u64) -> Value {
    let (mut content, mut reasoning, mut finish) = (String::new(), None::<String>, Value::Null);
    let mut calls: Vec<Value> = Vec::new();
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        if choice["index"] != index {
            continue;
        }
        let delta = &choice["delta"];
        content.push_str(delta["content"].as_str().unwrap_or_default());
        assert_eq!(delta["reasoning"], delta["reasoning_content"]);
        if let Some(text) = delta["reasoning"].as_str() {
            reasoning.get_or_insert_default().push_str(text);
        }
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let at = call["index"].as_u64().unwrap() as usize;
            if at == calls.len() {
                assert!(call["id"].as_str().unwrap().starts_with("call_"));
                calls.push(json!({"name": call["function"]["name"], "arguments": ""}));
            }
            let arguments = format!(
                "{}{}",
                calls[at]["arguments"].as_str().unwrap(),
                call["function"]["arguments"].as_str().unwrap()
            );
            calls[at]["arguments"] = arguments.into();
        }
        if !choice["finish_reason"].is_null() {
            assert!(finish.is_null(), "two finish reasons");
            finish = choice["finish_reason"].clone();
        }
    }
    json!({"content": content, "reasoning": reasoning, "calls": calls, "finish_reason": finish})
}

/// The same of a whole completion.
fn summary(choice: &Value) -> Value {
    let message = &choice["message"];
    assert_eq!(message["reasoning"], message["reasoning_content"]);
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let calls: Vec<Value> = calls.iter().map(|call| call["function"].clone()).collect();
    json!({
        "content": message["content"].as_str().unwrap_or_default(),
        "reasoning": message["reasoning"],
        "calls": calls,
        "finish_reason": choice["finish_reason"],
    })
}

async fn chunks(server: &TestServer, body: &Value) -> Vec<Value> {
    server.stream(PATH, body).await.into_iter().map(|event| event.data).collect()
}

#[tokio::test]
async fn a_stream_says_what_a_whole_answer_says() {
    let server = TestServer::new(THINKING);
    let tools = json!({"tools": [weather_tool(), time_tool()]});
    let bodies = [
        ask("sum"),
        ask("hello <|end|> there"),
        with(ask("sum"), json!({"stop": ["déjà", "never"]})),
        with(ask("count"), json!({"max_tokens": 6})),
        with(ask("sum"), json!({"max_completion_tokens": 5})),
        with(ask("preamble"), tools.clone()),
        with(ask("hello"), tools.clone()),
        with(ask("hello"), with(tools, json!({"tool_choice": "required", "reasoning_effort": "none"}))),
        with(ask("sum"), json!({"n": 3, "temperature": 1, "seed": 7, "logprobs": true, "top_logprobs": 2})),
    ];
    for body in bodies {
        let whole = server.ok(PATH, &body).await;
        let asked_usage = with(body.clone(), json!({"stream_options": {"include_usage": true}}));
        let chunks = chunks(&server, &asked_usage).await;
        let choices = whole["choices"].as_array().unwrap();
        assert_eq!(choices.len() as u64, body["n"].as_u64().unwrap_or(1));
        for choice in choices {
            let index = choice["index"].as_u64().unwrap();
            assert_eq!(fold(&chunks, index), summary(choice), "{body}");
        }
        let last = chunks.last().unwrap();
        assert_eq!(last["choices"], json!([]));
        for counts in ["prompt_tokens", "completion_tokens", "total_tokens", "completion_tokens_details"] {
            assert_eq!(last["usage"][counts], whole["usage"][counts], "{counts} of {body}");
        }
        assert!(chunks.iter().all(|chunk| chunk["id"] == last["id"]));
        assert!(chunks[..chunks.len() - 1].iter().all(|chunk| chunk["usage"] == Value::Null));
    }
}

#[tokio::test]
async fn the_whole_vocabulary_speaks() {
    let server = TestServer::o200k(THINKING);
    let body = server.ok(PATH, &ask("sum")).await;
    assert_eq!(body["choices"][0]["message"]["content"], "It is 42, déjà vu 🦀.");
    let body = server.ok(PATH, &with(ask("Weather?"), json!({"tools": [weather_tool()]}))).await;
    let call = &body["choices"][0]["message"]["tool_calls"][0];
    assert_eq!(call["function"]["arguments"], "{\"city\":\"text\"}");
}

#[tokio::test]
async fn reasoning_content_and_usage_are_exact() {
    let server = TestServer::new(THINKING);
    let body = server.ok(PATH, &ask("sum")).await;
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], "It is 42, déjà vu 🦀.");
    assert_eq!(message["reasoning_content"], "17 plus 25.");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "gpt-oss");
    let tokenizer = common::tokenizer::small();
    let played = serde_json::from_str::<Value>(THINKING).unwrap()[0]["text"].as_str().unwrap().to_owned();
    assert_eq!(body["usage"]["completion_tokens"], tokenizer.encode_with_special_tokens(&played).len());
    let thought = tokenizer.encode_ordinary("17 plus 25.").len();
    assert_eq!(body["usage"]["completion_tokens_details"]["reasoning_tokens"], thought);
    let total = body["usage"]["prompt_tokens"].as_u64().unwrap()
        + body["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(body["usage"]["total_tokens"], total);

    let again = server.ok(PATH, &ask("sum")).await;
    let cached = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(
        cached > 0 && cached < again["usage"]["prompt_tokens"].as_u64().unwrap(),
        "{cached} tokens cached"
    );

    let hidden = server.ok(PATH, &with(ask("sum"), json!({"include_reasoning": false}))).await;
    assert!(hidden["choices"][0]["message"].get("reasoning").is_none());
    assert_eq!(hidden["choices"][0]["message"]["content"], "It is 42, déjà vu 🦀.");
}

#[tokio::test]
async fn a_tool_round_trip() {
    let server = TestServer::new("[]");
    let tools = json!([weather_tool(), time_tool()]);
    let first = server.ok(PATH, &with(ask("Weather?"), json!({"tools": tools}))).await;
    let choice = &first["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "get_weather", "arguments": "{\"city\":\"text\"}"}));
    assert_eq!(call["type"], "function");

    let result = json!({"role": "tool", "tool_call_id": call["id"], "content": [{"type": "text", "text": "Rain <|end|>"}]});
    let messages = json!([{"role": "user", "content": "Weather?"}, choice["message"], result]);
    let second = server.ok(PATH, &json!({"messages": messages, "tools": tools, "temperature": 0})).await;
    assert_eq!(second["choices"][0]["message"]["content"], "The tool says: Rain < |end|>");
    assert_eq!(second["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn tool_choice_holds_whatever_the_model_prefers() {
    let server = TestServer::new(THINKING);
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    let allowed = |mode: &str| {
        let tools = [json!({"type": "function", "function": {"name": "get_time"}})];
        json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
    };
    let cases = [
        ("hello", json!("none"), None),
        ("hello", json!("auto"), Some("get_weather")),
        ("sum", json!("auto"), None),
        ("sum", json!("required"), Some("get_weather")),
        ("sum", named("get_time"), Some("get_time")),
        ("hello", named("get_time"), Some("get_time")),
        ("preamble", named("get_time"), Some("get_time")),
        ("hello", allowed("required"), Some("get_time")),
        ("sum", allowed("auto"), None),
    ];
    for (text, choice, expected) in cases {
        for effort in ["medium", "minimal"] {
            let fields = json!({
                "tools": [weather_tool(), time_tool()], "tool_choice": choice, "reasoning_effort": effort,
            });
            let body = server.ok(PATH, &with(ask(text), fields.clone())).await;
            let message = &body["choices"][0]["message"];
            let called = message["tool_calls"][0]["function"]["name"].as_str();
            assert_eq!(called, expected, "{text}, {fields}: {message}");
            assert_eq!(
                body["choices"][0]["finish_reason"],
                if expected.is_some() { "tool_calls" } else { "stop" }
            );
            if effort == "minimal" {
                assert!(message.get("reasoning").is_none(), "{text}, {fields}: {message}");
            }
        }
    }
}

#[tokio::test]
async fn what_ends_an_answer() {
    let server = TestServer::new(THINKING);
    let cases = [
        (json!({"stop": "three"}), "one two ", "stop"),
        (json!({"stop": ["wo th", "xyz"]}), "one t", "stop"),
        (json!({"stop": ["plus"]}), "one two three four five six", "stop"),
        (json!({"max_tokens": 5}), "one two", "length"),
        (json!({"max_tokens": 1}), "", "length"),
        (
            json!({"stop_token_ids": common::tokenizer::small().encode_ordinary(" four")}),
            "one two three",
            "stop",
        ),
        (json!({"ignore_eos": true, "max_tokens": 9}), "one two three four five six", "length"),
    ];
    for (fields, content, reason) in cases {
        let body = server.ok(PATH, &with(ask("count"), fields.clone())).await;
        let choice = &body["choices"][0];
        assert_eq!(choice["finish_reason"], reason, "{fields}");
        let found = choice["message"]["content"].as_str().unwrap();
        let fits = if fields["ignore_eos"] == true { found.starts_with(content) } else { found == content };
        assert!(fits, "{fields}: {found:?}");
        if let Some(max) = fields["max_tokens"].as_u64() {
            assert_eq!(body["usage"]["completion_tokens"], max);
        }
    }
}

#[tokio::test]
async fn logprobs_are_of_the_final_text() {
    let server = TestServer::new(THINKING);
    let body = server.ok(PATH, &with(ask("sum"), json!({"logprobs": true, "top_logprobs": 3}))).await;
    let choice = &body["choices"][0];
    let tokens = choice["logprobs"]["content"].as_array().unwrap();
    let bytes: Vec<u8> = tokens
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap())
        .map(|byte| byte.as_u64().unwrap() as u8)
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), choice["message"]["content"].as_str().unwrap());
    assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 3));
    assert!(tokens.iter().all(|token| token["logprob"].as_f64().unwrap() > -0.1));
    let none = server.ok(PATH, &ask("sum")).await;
    assert_eq!(none["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_blocks() {
    use http_body_util::BodyExt;
    use tower::ServiceExt;
    let rules = r#"[{"pattern": "slow", "text": "a b c d e f g h i j k l m n o p", "delay_ms": 20}]"#;
    let server = TestServer::new(rules);
    let request = common::json_request(PATH, &with(ask("slow"), json!({"stream": true})));
    let response = server.app.clone().oneshot(request).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(server.engine.stats().num_finished_total, 0);
    drop(body);
    loop {
        let stats = server.engine.stats();
        if stats.num_aborted_total == 1 && stats.num_running == 0 {
            assert_eq!(stats.num_blocks_used, 0);
            assert!(stats.blocks_add_up());
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
