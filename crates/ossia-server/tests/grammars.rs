//! Formats of the answer, strict arguments, custom tools and namespaces, through both APIs: whatever the model would
//! say, what it says is of the language that was asked for.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SseEvent, TestServer};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

/// What the model would say: to `prose` no JSON, to `json` JSON in its own layout, to the others a call.
const RULES: &str = r#"[
    {"pattern": "prose", "text": "<|channel|>analysis<|message|>I think in prose.<|end|><|start|>assistant<|channel|>final<|message|>one two three<|return|>"},
    {"pattern": "json", "text": "<|channel|>final<|message|>{ \"n\": 2 }<|return|>"},
    {"pattern": "badly", "text": "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": 7, oops<|call|>"},
    {"pattern": "write", "text": "<|channel|>commentary to=functions.write code<|message|>*** \"raw\" text<|call|>"},
    {"pattern": "find", "text": "<|channel|>commentary to=crm.find <|constrain|>json<|message|>{\"id\":5}<|call|>"}
]"#;

fn schema() -> Value {
    json!({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 3}},
        "required": ["n"], "additionalProperties": false})
}

fn chat(text: &str, fields: Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 200});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn response(input: impl Into<Value>, fields: Value) -> Value {
    let mut body = json!({"input": input.into(), "temperature": 0, "max_output_tokens": 200});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn is_n(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("{text:?} is no JSON"));
    value.as_object().unwrap().len() == 1 && (1..=3).contains(&value["n"].as_i64().unwrap())
}

#[tokio::test]
async fn the_answer_has_the_format_and_the_thought_is_free() {
    let server = TestServer::new(RULES);
    for strict in [true, false] {
        let format = json!({"type": "json_schema", "json_schema": {"name": "n", "strict": strict, "schema": schema()}});
        let answer = server.ok(CHAT, &chat("prose", json!({"response_format": format}))).await;
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["reasoning"], "I think in prose.");
        assert!(is_n(message["content"].as_str().unwrap()), "{message}");
        let answer = server.ok(CHAT, &chat("json", json!({"response_format": format}))).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "{ \"n\": 2 }");

        let format =
            json!({"format": {"type": "json_schema", "name": "n", "strict": strict, "schema": schema()}});
        let answer = server.ok(RESPONSES, &response("prose", json!({"text": format}))).await;
        assert_eq!(answer["output"][0]["content"][0]["text"], "I think in prose.");
        assert!(is_n(answer["output"][1]["content"][0]["text"].as_str().unwrap()), "{answer}");
        assert_eq!(answer["text"]["format"], format["format"]);
    }
    let object = json!({"type": "json_object"});
    let answer = server.ok(CHAT, &chat("json", json!({"response_format": object}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "{ \"n\": 2 }");
    let text = json!({"format": {"type": "text"}});
    let answer = server.ok(RESPONSES, &response("prose", json!({"text": text}))).await;
    assert_eq!(answer["output"][1]["content"][0]["text"], "one two three");
}

#[tokio::test]
async fn the_prompt_shows_the_format() {
    let server = TestServer::new(RULES);
    let plain = server.ok(CHAT, &chat("json", json!({}))).await;
    let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema()}});
    let shown = server.ok(CHAT, &chat("json", json!({"response_format": format}))).await;
    let prompt_tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(prompt_tokens(&shown) > prompt_tokens(&plain) + 20);
}

#[tokio::test]
async fn arguments_are_held_to_the_schema_or_to_an_object() {
    let server = TestServer::new(RULES);
    let parameters = json!({"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"], "additionalProperties": false});
    for strict in [json!(true), json!(false), Value::Null] {
        let function = json!({"name": "get_weather", "parameters": parameters, "strict": strict});
        let tools = json!([{"type": "function", "function": function}]);
        let answer = server.ok(CHAT, &chat("badly", json!({"tools": tools, "max_tokens": 400}))).await;
        let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
        if strict == true {
            let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
            assert!(["Paris", "Rome"].iter().any(|city| arguments == json!({"city": city})), "{call}");
        } else {
            assert!(call["arguments"].as_str().unwrap().starts_with("{\"city\": 7"), "{call}");
        }

        let mut tool = json!({"type": "function", "name": "get_weather", "parameters": parameters});
        tool["strict"] = strict.clone();
        let answer = server.ok(RESPONSES, &response("badly", json!({"tools": [tool]}))).await;
        let arguments = answer["output"][0]["arguments"].as_str().unwrap();
        assert_eq!(arguments.starts_with("{\"city\": 7"), strict == false, "{arguments}");
        assert_eq!(answer["tools"][0]["strict"], strict != false);
    }
}

#[tokio::test]
async fn a_schema_that_cannot_be_enforced_is_only_refused_when_strict() {
    let server = TestServer::new(RULES);
    let parameters = json!({"type": "object", "properties": {
        "n": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}});
    let tool = |strict: Value| json!({"tools": [{"type": "function", "name": "f", "parameters": parameters, "strict": strict}]});
    let relaxed = server.ok(RESPONSES, &response("json", tool(Value::Null))).await;
    assert_eq!(relaxed["tools"][0]["strict"], false);
    server.ok(RESPONSES, &response("json", tool(json!(false)))).await;
    let refused = server.post(RESPONSES, &response("json", tool(json!(true)))).await;
    assert_eq!(
        (refused.status.as_u16(), &refused.body["error"]["param"]),
        (400, &json!("tools[0].parameters"))
    );
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("oneOf"), "{}", refused.body);
}

fn write_tool() -> Value {
    json!({"type": "custom", "name": "write", "description": "Writes a file"})
}

#[tokio::test]
async fn a_custom_tool_takes_text_through_responses() {
    let server = TestServer::new(RULES);
    let tools = json!({"tools": [write_tool(), {"type": "web_search"}]});
    let first = server.ok(RESPONSES, &response("write", tools.clone())).await;
    let call = &first["output"][0];
    assert_eq!((&call["type"], &call["name"]), (&json!("custom_tool_call"), &json!("write")));
    assert_eq!((&call["input"], &call["status"]), (&json!("*** \"raw\" text"), &json!("completed")));
    assert!(call["id"].as_str().unwrap().starts_with("ctc_") && call.get("namespace").is_none());

    let events = server.stream(RESPONSES, &response("write", tools.clone())).await;
    let names: Vec<&str> = events.iter().map(|event| event.name.as_str()).collect();
    let deltas = names.iter().filter(|name| **name == "response.custom_tool_call_input.delta").count();
    assert!(deltas > 1 && names.contains(&"response.custom_tool_call_input.done"), "{names:?}");
    let done = |name: &str| events.iter().find(|event| event.name == name).unwrap().data.clone();
    assert_eq!(done("response.custom_tool_call_input.done")["input"], "*** \"raw\" text");
    let item = &done("response.output_item.added")["item"];
    assert_eq!((&item["type"], &item["input"]), (&json!("custom_tool_call"), &json!("")));

    let result = json!({"type": "custom_tool_call_output", "call_id": call["call_id"], "output": "saved"});
    let items = json!([{"role": "user", "content": "write"}, call, result]);
    let answer = server.ok(RESPONSES, &response(items, json!({"tools": [write_tool()]}))).await;
    assert_eq!(answer["status"], "completed", "{answer}");
    let by_id = json!({"previous_response_id": first["id"]});
    server.ok(RESPONSES, &response(json!([result]), by_id)).await;
}

#[tokio::test]
async fn a_custom_tool_takes_text_through_chat() {
    let server = TestServer::new(RULES);
    let custom = json!({"type": "custom", "custom": {"name": "write", "description": "Writes a file"}});
    let choice = json!({"type": "custom", "custom": {"name": "write"}});
    let fields = json!({"tools": [custom], "tool_choice": choice});
    let answer = server.ok(CHAT, &chat("write", fields.clone())).await;
    let call = &answer["choices"][0]["message"]["tool_calls"][0];
    let input = "*** \"raw\" text";
    assert_eq!(
        (&call["type"], &call["custom"]),
        (&json!("custom"), &json!({"name": "write", "input": input}))
    );
    assert_eq!((&answer["choices"][0]["finish_reason"], call.get("function")), (&json!("tool_calls"), None));

    let chunks: Vec<SseEvent> = server.stream(CHAT, &chat("write", fields)).await;
    let deltas = chunks.iter().map(|chunk| &chunk.data["choices"][0]["delta"]["tool_calls"][0]);
    let pieces = deltas.filter_map(|call| call["custom"]["input"].as_str().map(str::to_owned));
    assert_eq!(pieces.collect::<String>(), input);

    let history = json!([{"role": "user", "content": "write"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "saved"}]);
    server.ok(CHAT, &json!({"messages": history, "tools": [custom], "max_tokens": 50})).await;
}

#[tokio::test]
async fn a_custom_tool_follows_its_grammar() {
    let server = TestServer::new(RULES);
    for (syntax, definition) in [("regex", "[0-9]{3}"), ("lark", "start: /[0-9]{3}/")] {
        let mut tool = write_tool();
        tool["format"] = json!({"type": "grammar", "syntax": syntax, "definition": definition});
        let answer = server.ok(RESPONSES, &response("write", json!({"tools": [tool]}))).await;
        let input = answer["output"][0]["input"].as_str().unwrap();
        assert!(input.len() == 3 && input.bytes().all(|byte| byte.is_ascii_digit()), "{syntax}: {input:?}");
        assert_eq!(answer["tools"][0]["format"]["definition"], definition);
    }
}

#[tokio::test]
async fn functions_of_a_namespace_are_called_by_the_clients_names() {
    let server = TestServer::new(RULES);
    let function = json!({"type": "function", "name": "find", "parameters": {"type": "object", "properties": {
        "id": {"type": "integer"}}, "required": ["id"], "additionalProperties": false}});
    let namespace =
        json!({"type": "namespace", "name": "crm", "description": "Customers", "tools": [function]});
    let tools = json!({"tools": [namespace], "tool_choice": "required"});
    let first = server.ok(RESPONSES, &response("find", tools)).await;
    let call = &first["output"][0];
    let said = (&call["type"], &call["namespace"], &call["name"], &call["arguments"]);
    assert_eq!(said, (&json!("function_call"), &json!("crm"), &json!("find"), &json!("{\"id\":5}")));
    assert_eq!(first["tools"][0]["tools"][0]["name"], "find");

    let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "Ada"});
    let items = json!([{"role": "user", "content": "Who?"}, call, result]);
    let answer = server.ok(RESPONSES, &response(items, json!({"tools": [namespace]}))).await;
    let text = answer["output"][1]["content"][0]["text"].as_str().unwrap();
    assert_eq!(text, "The tool says: Ada");
}
