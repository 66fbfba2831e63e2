//! Every fault of a client is answered in OpenAI's envelope, with the field named.
#![allow(clippy::unwrap_used)]

mod common;

use axum::body::Body;
use axum::http::{Method, Request};
use common::TestServer;
use ossia_scripted::ScriptedOptions;
use ossia_server::ServerConfig;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

fn small() -> TestServer {
    let options =
        ScriptedOptions { num_blocks: 64, max_position_embeddings: 256, ..ScriptedOptions::default() };
    TestServer::with("[]", options, ServerConfig { max_body_bytes: 20_000, ..ServerConfig::default() })
}

async fn check(server: &TestServer, path: &str, body: Value, status: u16, code: &str, param: Option<&str>) {
    let answer = server.post(path, &body).await;
    let error = &answer.body["error"];
    let context = format!("{path} {body}: {} {}", answer.status, answer.body);
    assert_eq!(answer.status, status, "{context}");
    assert_eq!(error["code"], code, "{context}");
    assert_eq!(error["param"], json!(param), "{context}");
    assert!(error["message"].as_str().unwrap().len() > 10 && error["type"].is_string(), "{context}");
}

#[tokio::test]
async fn fields_of_a_chat_request() {
    let server = small();
    let hi = json!([{"role": "user", "content": "hi"}]);
    let tool = json!([{"type": "function", "function": {"name": "f"}}]);
    let many = "x ".repeat(300);
    let cases = [
        (json!({}), "missing_required_parameter", "messages"),
        (json!({"messages": []}), "empty_array", "messages"),
        (json!({"messages": "hi"}), "invalid_type", "messages"),
        (json!({"messages": [{"role": "user"}]}), "missing_required_parameter", "messages[0].content"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "invalid_value",
            "messages[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "missing_required_parameter",
            "messages[0].content[0].text",
        ),
        (
            json!({"messages": [{"role": "tool", "content": "x"}]}),
            "missing_required_parameter",
            "messages[0].tool_call_id",
        ),
        (
            json!({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}),
            "invalid_value",
            "messages[0].tool_call_id",
        ),
        (json!({"messages": [{"role": "assistant"}]}), "missing_required_parameter", "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": many}]}), "context_length_exceeded", "messages"),
        (json!({"messages": hi, "temperature": 2.5}), "decimal_above_max_value", "temperature"),
        (json!({"messages": hi, "temperature": -1}), "decimal_below_min_value", "temperature"),
        (json!({"messages": hi, "top_p": 1.1}), "decimal_above_max_value", "top_p"),
        (json!({"messages": hi, "presence_penalty": 3}), "decimal_above_max_value", "presence_penalty"),
        (json!({"messages": hi, "n": 0}), "integer_below_min_value", "n"),
        (json!({"messages": hi, "n": 129}), "integer_above_max_value", "n"),
        (json!({"messages": hi, "max_tokens": 0}), "integer_below_min_value", "max_tokens"),
        (
            json!({"messages": hi, "max_tokens": 1, "max_completion_tokens": 2}),
            "invalid_parameter_combination",
            "max_tokens",
        ),
        (json!({"messages": hi, "logit_bias": {"x": 1}}), "invalid_value", "logit_bias"),
        (json!({"messages": hi, "logit_bias": {"9999999": 1}}), "invalid_value", "logit_bias"),
        (json!({"messages": hi, "logit_bias": {"1": 101}}), "decimal_above_max_value", "logit_bias.1"),
        (json!({"messages": hi, "stop": ["a", "b", "c", "d", "e"]}), "array_above_max_length", "stop"),
        (json!({"messages": hi, "top_logprobs": 2}), "invalid_value", "top_logprobs"),
        (
            json!({"messages": hi, "logprobs": true, "top_logprobs": 21}),
            "integer_above_max_value",
            "top_logprobs",
        ),
        (json!({"messages": hi, "stream_options": {}}), "invalid_value", "stream_options"),
        (json!({"messages": hi, "reasoning_effort": "huge"}), "invalid_value", "reasoning_effort"),
        (json!({"messages": hi, "verbosity": "huge"}), "invalid_value", "verbosity"),
        (json!({"messages": hi, "service_tier": "gold"}), "invalid_value", "service_tier"),
        (json!({"messages": hi, "metadata": {"a": 1}}), "invalid_type", "metadata.a"),
        (json!({"messages": hi, "tool_choice": "required"}), "invalid_value", "tool_choice"),
        (json!({"messages": hi, "tool_choice": "maybe"}), "invalid_value", "tool_choice"),
        (
            json!({"messages": hi, "tools": tool, "tool_choice": {"type": "function", "function": {"name": "g"}}}),
            "invalid_value",
            "tool_choice",
        ),
        (
            json!({"messages": hi, "tools": [{"type": "custom"}]}),
            "missing_required_parameter",
            "tools[0].custom",
        ),
        (
            json!({"messages": hi, "tools": [{"type": "custom", "custom": {"name": "x", "format":
                {"type": "grammar", "grammar": {"syntax": "bnf", "definition": "x"}}}}]}),
            "invalid_value",
            "tools[0].custom.format.grammar.syntax",
        ),
        (
            json!({"messages": hi, "tools": [{"type": "custom", "custom": {"name": "x", "format":
                {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: nothing"}}}}]}),
            "invalid_value",
            "tools[0].custom.format.grammar.definition",
        ),
        (
            json!({"messages": hi, "tools": [{"type": "function", "function": {"name": "f", "strict": true,
                "parameters": {"type": "wibble"}}}]}),
            "invalid_value",
            "tools[0].function.parameters",
        ),
        (
            json!({"messages": hi, "tools": [{"type": "function"}]}),
            "missing_required_parameter",
            "tools[0].function",
        ),
        (
            json!({"messages": hi, "tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}),
            "invalid_type",
            "tools[0].function.parameters",
        ),
        (
            json!({"messages": hi, "response_format": {"type": "json_schema"}}),
            "missing_required_parameter",
            "response_format.json_schema",
        ),
        (
            json!({"messages": hi, "response_format": {"type": "json_schema", "json_schema":
                {"name": "n", "schema": {"type": "string", "minLength": 2, "maxLength": 1}}}}),
            "invalid_value",
            "response_format.json_schema.schema",
        ),
        (
            json!({"messages": hi, "response_format": {"type": "json_schema", "json_schema":
                {"name": "a b", "schema": {}}}}),
            "invalid_value",
            "response_format.json_schema.name",
        ),
        (
            json!({"messages": hi, "response_format": {"type": "xml"}}),
            "invalid_value",
            "response_format.type",
        ),
        (json!({"messages": hi, "functions": []}), "empty_array", "functions"),
        (json!({"messages": hi, "functions": [{"name": "a b"}]}), "invalid_value", "functions[0].name"),
        (json!({"messages": hi, "function_call": "auto"}), "unsupported_parameter", "function_call"),
        (
            json!({"messages": hi, "functions": [{"name": "f"}], "function_call": {"name": "g"}}),
            "invalid_value",
            "function_call",
        ),
        (
            json!({"messages": hi, "functions": [{"name": "f"}], "function_call": "required"}),
            "invalid_value",
            "function_call",
        ),
        (
            json!({"messages": hi, "functions": [{"name": "f"}], "tools": tool}),
            "invalid_parameter_combination",
            "functions",
        ),
        (json!({"messages": [["user", "hi"]]}), "invalid_type", "messages[0]"),
        (
            json!({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}),
            "unsupported_parameter",
            "messages[0].audio",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
            "invalid_value",
            "messages[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}),
            "invalid_value",
            "messages[0].content[0].type",
        ),
        (
            json!({"messages": [{"role": "function", "content": "x"}]}),
            "missing_required_parameter",
            "messages[0].name",
        ),
        (json!({"messages": hi, "modalities": ["smell"]}), "invalid_value", "modalities"),
        (
            json!({"messages": hi, "prediction": {"type": "guess", "content": "x"}}),
            "invalid_value",
            "prediction.type",
        ),
        (
            json!({"messages": hi, "prediction": {"type": "content"}}),
            "missing_required_parameter",
            "prediction.content",
        ),
        (json!({"messages": hi, "prompt_cache_retention": "1h"}), "invalid_value", "prompt_cache_retention"),
        (
            json!({"messages": hi, "safety_identifier": "x".repeat(65)}),
            "string_above_max_length",
            "safety_identifier",
        ),
        (
            json!({"messages": hi, "chat_template_kwargs": {"reasoning_effort": "huge"}}),
            "invalid_value",
            "reasoning_effort",
        ),
        (json!({"messages": hi, "top_k": -2}), "integer_below_min_value", "top_k"),
        (json!({"messages": hi, "min_p": 1.5}), "decimal_above_max_value", "min_p"),
        (json!({"messages": hi, "repetition_penalty": 0}), "decimal_below_min_value", "repetition_penalty"),
        (json!({"messages": hi, "min_tokens": -1}), "integer_below_min_value", "min_tokens"),
        (json!({"messages": hi, "modalities": ["text", "audio"]}), "unsupported_parameter", "modalities"),
        (json!({"messages": hi, "audio": {}}), "unsupported_parameter", "audio"),
        (json!({"messages": hi, "web_search_options": {}}), "unsupported_parameter", "web_search_options"),
    ];
    for (body, code, param) in cases {
        check(&server, CHAT, body, 400, code, Some(param)).await;
    }
    check(&server, CHAT, json!({"messages": hi, "model": "gpt-9"}), 404, "model_not_found", Some("model"))
        .await;
}

#[tokio::test]
async fn fields_of_a_response_request() {
    let server = small();
    let cases = [
        (json!({}), "missing_required_parameter", "input"),
        (json!({"input": 3}), "invalid_type", "input"),
        (json!({"input": [{"role": "user"}]}), "missing_required_parameter", "input[0].content"),
        (json!({"input": [{"role": "robot", "content": "x"}]}), "invalid_value", "input[0].role"),
        (json!({"input": [{"type": "telepathy"}]}), "invalid_value", "input[0].type"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "invalid_value",
            "input[0].content[0].type",
        ),
        (
            json!({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}),
            "missing_required_parameter",
            "input[0].call_id",
        ),
        (
            json!({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}),
            "invalid_value",
            "input[0].call_id",
        ),
        (json!({"input": [{"type": "item_reference", "id": "msg_1"}]}), "item_not_found", "input[0].id"),
        (json!({"input": "x ".repeat(300)}), "context_length_exceeded", "input"),
        (
            json!({"input": "x", "previous_response_id": "resp_1"}),
            "previous_response_not_found",
            "previous_response_id",
        ),
        (json!({"input": "x", "max_output_tokens": 15}), "integer_below_min_value", "max_output_tokens"),
        (
            json!({"input": "x", "background": true, "store": false}),
            "invalid_parameter_combination",
            "background",
        ),
        (json!({"input": "x", "conversation": "conv_1"}), "conversation_not_found", "conversation"),
        (
            json!({"input": "x", "conversation": "conv_1", "previous_response_id": "resp_1"}),
            "mutually_exclusive_parameters",
            "previous_response_id",
        ),
        (json!({"input": "x", "prompt": {"id": "p"}}), "unsupported_parameter", "prompt"),
        (json!({"input": "x", "truncation": "maybe"}), "invalid_value", "truncation"),
        (
            json!({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}]}),
            "invalid_encrypted_content",
            "input[0].encrypted_content",
        ),
        (
            json!({"input": [{"type": "compaction"}]}),
            "missing_required_parameter",
            "input[0].encrypted_content",
        ),
        (json!({"input": "x", "include": ["everything"]}), "invalid_value", "include[0]"),
        (
            json!({"input": "x", "text": {"format": {"type": "json_schema", "name": "n", "strict": true,
                "schema": {"oneOf": [{"type": "string"}, {"maxLength": 3}]}}}}),
            "invalid_value",
            "text.format.schema",
        ),
        (
            json!({"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}}),
            "missing_required_parameter",
            "text.format.schema",
        ),
        (json!({"input": "x", "reasoning": {"effort": "huge"}}), "invalid_value", "reasoning.effort"),
        (json!({"input": "x", "reasoning": {"summary": "long"}}), "invalid_value", "reasoning.summary"),
        (json!({"input": "x", "top_logprobs": 3}), "invalid_value", "top_logprobs"),
        (
            json!({"input": "x", "tools": [{"type": "custom", "name": "c", "format":
                {"type": "grammar", "syntax": "regex", "definition": "("}}]}),
            "invalid_value",
            "tools[0].format.definition",
        ),
        (
            json!({"input": "x", "tools": [{"type": "namespace", "name": "n", "description": "", "tools":
                [{"type": "function", "name": "f", "strict": true, "parameters": {"type": "wibble"}}]}]}),
            "invalid_value",
            "tools[0].tools[0].parameters",
        ),
        (
            json!({"input": "x", "tools": [{"type": "namespace", "name": "functions", "description": "", "tools":
                [{"type": "function", "name": "f"}]}]}),
            "invalid_value",
            "tools[0].name",
        ),
        (json!({"input": "x", "tools": [{"name": "c"}]}), "missing_required_parameter", "tools[0].type"),
        (
            json!({"input": "x", "tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}),
            "unsupported_parameter",
            "tool_choice",
        ),
        (
            json!({"input": "x", "tools": [{"type": "web_search"}], "tool_choice": "required"}),
            "invalid_value",
            "tool_choice",
        ),
    ];
    for (body, code, param) in cases {
        check(&server, RESPONSES, body, 400, code, Some(param)).await;
    }
    check(&server, RESPONSES, json!({"input": "x", "model": "gpt-9"}), 404, "model_not_found", Some("model"))
        .await;
}

#[tokio::test]
async fn routes_methods_and_bodies() {
    let server = small();
    let post = |body: Body| {
        Request::builder()
            .method(Method::POST)
            .uri(CHAT)
            .header("content-type", "application/json")
            .body(body)
            .unwrap()
    };
    let plain = Request::builder()
        .method(Method::POST)
        .uri(CHAT)
        .header("content-type", "text/plain")
        .body(Body::from("{}"))
        .unwrap();
    let bare =
        |method: Method, path: &str| Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let cases = [
        (bare(Method::GET, "/v1/nothing"), 404, json!("unknown_url")),
        (bare(Method::DELETE, CHAT), 405, json!("method_not_supported")),
        (bare(Method::DELETE, "/v1/models"), 405, json!("method_not_supported")),
        (bare(Method::GET, "/v1/models/gpt-9"), 404, json!("model_not_found")),
        (bare(Method::GET, "/v1/responses/resp_1"), 404, Value::Null),
        (bare(Method::GET, "/v1/responses/%ff"), 400, json!("invalid_value")),
        (bare(Method::GET, "/v1/models/%ff"), 400, json!("invalid_value")),
        (bare(Method::GET, "/v1/responses/resp_1?stream=maybe"), 400, json!("invalid_value")),
        (bare(Method::DELETE, "/v1/responses/resp_1"), 404, Value::Null),
        (bare(Method::GET, "/v1/responses"), 405, json!("method_not_supported")),
        (bare(Method::GET, "/v1/responses/resp_1/input_items?limit=0"), 404, Value::Null),
        (bare(Method::GET, "/v1/chat/completions?limit=0"), 400, json!("integer_below_min_value")),
        (bare(Method::GET, "/v1/chat/completions?order=up"), 400, json!("invalid_value")),
        (bare(Method::GET, "/v1/conversations/conv_1/items"), 404, Value::Null),
        (bare(Method::DELETE, "/v1/chat/completions/chatcmpl-1"), 404, Value::Null),
        (plain, 415, json!("unsupported_content_type")),
        (post(Body::from("{\"messages\": [")), 400, json!("invalid_json")),
        (post(Body::from("")), 400, json!("invalid_json")),
        (post(Body::from(vec![b' '; 20_001])), 413, json!("request_too_large")),
        (post(Body::from(vec![0xff, 0xfe])), 400, json!("invalid_json")),
    ];
    for (request, status, code) in cases {
        let context = format!("{} {}", request.method(), request.uri());
        let answer = server.send(request).await;
        assert_eq!(answer.status, status, "{context}: {}", answer.body);
        assert_eq!(answer.body["error"]["code"], code, "{context}: {}", answer.body);
        assert!(answer.headers.contains_key("x-request-id"), "{context}");
    }
    let mut request = bare(Method::GET, "/v1/nothing");
    request.headers_mut().insert("x-request-id", "mine".parse().unwrap());
    assert_eq!(server.send(request).await.headers["x-request-id"], "mine");
}

#[tokio::test]
async fn models_are_listed_under_all_their_names() {
    let names = vec!["gpt-oss-20b".to_owned(), "openai/gpt-oss-20b".to_owned()];
    let config = ServerConfig {
        served_model_names: names,
        model_root: "scripted".to_owned(),
        ..ServerConfig::default()
    };
    let options =
        ScriptedOptions { num_blocks: 64, max_position_embeddings: 256, ..ScriptedOptions::default() };
    let server = TestServer::with("[]", options, config.clone());
    let list = server.get("/v1/models").await.body;
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][1]["id"], "openai/gpt-oss-20b");
    assert_eq!(list["data"][0]["root"], "scripted");
    assert_eq!(list["data"][0]["max_model_len"], 256);
    assert_eq!(server.get("/v1/models/openai/gpt-oss-20b").await.body, list["data"][1]);
    assert_eq!(server.get("/health").await.body, json!({"status": "ok"}));
    let hi = json!({"messages": [{"role": "user", "content": "hi"}], "model": "openai/gpt-oss-20b"});
    assert_eq!(server.ok(CHAT, &hi).await["model"], "openai/gpt-oss-20b");

    let any = TestServer::with("[]", options, ServerConfig { accept_any_model: true, ..config });
    let other = json!({"input": "hi", "model": "gpt-9"});
    assert_eq!(any.ok(RESPONSES, &other).await["model"], "gpt-9");
}
