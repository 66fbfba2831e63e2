//! `/v1/completions`, `/tokenize`, `/detokenize` and `/v1/chat/completions/render`.
#![allow(clippy::unwrap_used)]

mod common;

use common::TestServer;
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";
const RULES: &str = r#"[{"pattern": "count", "text": "one two three four five six"},
    {"pattern": "crab", "text": "a 🦀 b"}]"#;

/// Harmony by hand: raw text has no envelope of its own.
fn harmony(text: &str) -> String {
    format!("<|start|>user<|message|>{text}<|end|><|start|>assistant<|channel|>final<|message|>")
}

fn ask(prompt: impl Into<Value>) -> Value {
    json!({"prompt": prompt.into(), "temperature": 0, "max_tokens": 100})
}

fn with(mut body: Value, fields: Value) -> Value {
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn texts(body: &Value) -> Vec<&str> {
    body["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn prompts_of_every_shape_are_continued() {
    let server = TestServer::new(RULES);
    let count = harmony("count");
    let ids = common::tokenizer::small().encode_with_special_tokens(&count);
    let crab = "a 🦀 b";
    let counted = "one two three four five six";
    let cases: [(Value, &[&str]); 5] = [
        (json!(count), &[counted]),
        (json!([count, harmony("crab")]), &[counted, crab]),
        (json!(ids), &[counted]),
        (json!([ids, ids]), &[counted, counted]),
        (json!([ids, harmony("crab")]), &[counted, crab]),
    ];
    for (prompt, expected) in cases {
        let body = server.ok(PATH, &ask(prompt)).await;
        assert_eq!(texts(&body), expected);
        assert_eq!(
            (&body["object"], &body["choices"][0]["finish_reason"]),
            (&json!("text_completion"), &json!("stop"))
        );
        let prompt_tokens = body["usage"]["prompt_tokens"].as_u64().unwrap();
        assert!(prompt_tokens >= (ids.len() * expected.len()) as u64 - 2, "{prompt_tokens}");
    }
}

#[tokio::test]
async fn a_stream_says_what_a_whole_answer_says() {
    let server = TestServer::new(RULES);
    let bodies = [
        ask(harmony("count")),
        with(ask(harmony("crab")), json!({"echo": true, "n": 2})),
        with(ask(json!([harmony("count"), harmony("crab")])), json!({"n": 2, "logprobs": 3})),
        with(
            ask(harmony("count")),
            json!({"stop": ["four"], "stream_options": {"include_obfuscation": true}}),
        ),
        with(ask(harmony("count")), json!({"max_tokens": 3})),
    ];
    for body in bodies {
        let mut whole_body = body.clone();
        whole_body.as_object_mut().unwrap().remove("stream_options");
        let whole = server.ok(PATH, &whole_body).await;
        let events = server.stream(PATH, &body).await;
        for choice in whole["choices"].as_array().unwrap() {
            let pieces = events.iter().flat_map(|event| event.data["choices"].as_array().unwrap());
            let pieces: Vec<&Value> = pieces.filter(|piece| piece["index"] == choice["index"]).collect();
            let text: String = pieces.iter().map(|piece| piece["text"].as_str().unwrap()).collect();
            assert_eq!(text, choice["text"].as_str().unwrap());
            assert_eq!(pieces.last().unwrap()["finish_reason"], choice["finish_reason"]);
            let tokens = pieces.iter().filter_map(|piece| piece["logprobs"]["tokens"].as_array()).flatten();
            let whole_tokens = choice["logprobs"]["tokens"].as_array().into_iter().flatten();
            assert!(tokens.eq(whole_tokens));
        }
    }
}

#[tokio::test]
async fn what_ends_and_what_surrounds_a_completion() {
    let server = TestServer::new(RULES);
    let count = harmony("count");
    let cases = [
        (json!({"stop": "three"}), "one two ".to_owned(), "stop"),
        (json!({"max_tokens": 2}), "one two".to_owned(), "length"),
        (json!({"max_tokens": 0}), String::new(), "length"),
        (json!({"max_tokens": 0, "echo": true}), count.clone(), "length"),
        (json!({"echo": true, "max_tokens": 1}), format!("{count}one"), "length"),
        (json!({"best_of": 1, "suffix": ""}), "one two three four five six".to_owned(), "stop"),
    ];
    for (fields, text, reason) in cases {
        let body = server.ok(PATH, &with(ask(count.clone()), fields.clone())).await;
        assert_eq!(
            (texts(&body)[0], body["choices"][0]["finish_reason"].as_str().unwrap()),
            (&*text, reason),
            "{fields}"
        );
    }
    let whole = "<|start|>user<|message|>count<|end|><|start|>assistant";
    let skipped = server.ok(PATH, &ask(whole)).await;
    assert_eq!(texts(&skipped), ["finalone two three four five six"]);
    let kept = server.ok(PATH, &with(ask(whole), json!({"skip_special_tokens": false}))).await;
    assert_eq!(texts(&kept), ["<|channel|>final<|message|>one two three four five six"]);
}

#[tokio::test]
async fn logprobs_are_parallel_lists() {
    let server = TestServer::new(RULES);
    let body = server.ok(PATH, &with(ask(harmony("crab")), json!({"logprobs": 2}))).await;
    let choice = &body["choices"][0];
    let list = |name: &str| choice["logprobs"][name].as_array().unwrap().clone();
    let tokens = list("tokens");
    assert!(
        ["token_logprobs", "top_logprobs", "text_offset"].iter().all(|name| list(name).len() == tokens.len())
    );
    assert!(tokens.iter().any(|token| token.as_str().unwrap().starts_with("bytes:")), "{tokens:?}");
    for ((token, top), logprob) in tokens.iter().zip(list("top_logprobs")).zip(list("token_logprobs")) {
        assert_eq!(top[token.as_str().unwrap()], logprob);
    }
    let text: Vec<char> = choice["text"].as_str().unwrap().chars().collect();
    let offset = list("text_offset").last().unwrap().as_u64().unwrap() as usize;
    assert_eq!(text[offset..].iter().collect::<String>(), tokens.last().unwrap().as_str().unwrap());
    let none = server.ok(PATH, &ask(harmony("crab"))).await;
    assert_eq!(none["choices"][0]["logprobs"], Value::Null);
}

#[tokio::test]
async fn text_and_requests_become_tokens_and_text_again() {
    let server = TestServer::new(RULES);
    let tokenizer = common::tokenizer::small();
    let text = "<|start|>user<|message|>hi 🦀<|end|>";
    let tokens = server.ok("/tokenize", &json!({"prompt": text, "return_token_strs": true})).await;
    assert_eq!(tokens["tokens"], json!(tokenizer.encode_with_special_tokens(text)));
    assert_eq!(tokens["count"], tokens["tokens"].as_array().unwrap().len());
    assert_eq!(tokens["token_strs"][0], "<|start|>");
    assert_eq!(tokens["max_model_len"], server.engine.config().max_model_len);
    let back = server.ok("/detokenize", &json!({"tokens": tokens["tokens"]})).await;
    assert_eq!(back, json!({"prompt": text}));
    assert_eq!(server.ok("/detokenize", &json!({"tokens": []})).await, json!({"prompt": ""}));

    let tool = json!({"type": "function", "function": {"name": "get_time"}});
    let chat = json!({"messages": [{"role": "user", "content": "count <|end|>"}], "tools": [tool]});
    let rendered = server.ok("/v1/chat/completions/render", &chat).await;
    assert!(rendered["prompt"].as_str().unwrap().contains("type get_time = () => any;"));
    assert!(rendered["prompt"].as_str().unwrap().ends_with("<|start|>assistant"));
    let tokens = server.ok("/tokenize", &chat).await;
    assert_eq!(tokens["tokens"], rendered["token_ids"]);
    assert_eq!(tokens["token_strs"], Value::Null);
    let answer = server.ok("/v1/chat/completions", &chat).await;
    assert_eq!(tokens["count"], answer["usage"]["prompt_tokens"]);
}

#[tokio::test]
async fn faults_are_named() {
    let server = TestServer::new("[]");
    let cases = [
        (PATH, json!({}), "missing_required_parameter", "prompt"),
        (PATH, json!({"prompt": []}), "empty_array", "prompt"),
        (PATH, json!({"prompt": [[]]}), "empty_array", "prompt[0]"),
        (PATH, json!({"prompt": {"a": 1}}), "invalid_type", "prompt"),
        (PATH, json!({"prompt": ["a", 1]}), "invalid_type", "prompt[1]"),
        (PATH, json!({"prompt": [1, -1]}), "invalid_value", "prompt[1]"),
        (PATH, json!({"prompt": [[1], [9_999_999]]}), "invalid_value", "prompt[1][0]"),
        (PATH, json!({"prompt": vec!["x"; 129]}), "array_above_max_length", "prompt"),
        (PATH, json!({"prompt": "x", "best_of": 2}), "unsupported_parameter", "best_of"),
        (PATH, json!({"prompt": "x", "best_of": 21}), "integer_above_max_value", "best_of"),
        (PATH, json!({"prompt": "x", "suffix": "y"}), "unsupported_parameter", "suffix"),
        (PATH, json!({"prompt": "x", "echo": true, "logprobs": 1}), "unsupported_parameter", "logprobs"),
        (PATH, json!({"prompt": "x", "logprobs": 6}), "integer_above_max_value", "logprobs"),
        (PATH, json!({"prompt": "x", "max_tokens": -1}), "integer_below_min_value", "max_tokens"),
        (PATH, json!({"prompt": "x", "stream_options": {}}), "invalid_value", "stream_options"),
        ("/tokenize", json!({}), "missing_required_parameter", "prompt"),
        ("/tokenize", json!({"prompt": 1}), "invalid_type", "prompt"),
        ("/tokenize", json!({"messages": []}), "empty_array", "messages"),
        (
            "/tokenize",
            json!({"messages": [{"role": "user", "content": "x"}], "add_generation_prompt": false}),
            "unsupported_parameter",
            "add_generation_prompt",
        ),
        ("/detokenize", json!({"tokens": ["a"]}), "invalid_value", "tokens[0]"),
        ("/detokenize", json!({"tokens": 1}), "invalid_type", "tokens"),
        ("/v1/chat/completions/render", json!({}), "missing_required_parameter", "messages"),
    ];
    for (path, body, code, param) in cases {
        let answer = server.post(path, &body).await;
        let error = &answer.body["error"];
        assert_eq!(answer.status, 400, "{path} {body}: {}", answer.body);
        assert_eq!(
            (error["code"].as_str(), error["param"].as_str()),
            (Some(code), Some(param)),
            "{path} {body}"
        );
    }
    for path in [PATH, "/tokenize", "/detokenize", "/v1/chat/completions/render"] {
        let unknown = json!({"model": "gpt-9", "prompt": "x", "tokens": [1], "messages": [{"role": "user", "content": "x"}]});
        assert_eq!(server.post(path, &unknown).await.status, 404, "{path}");
    }
}
