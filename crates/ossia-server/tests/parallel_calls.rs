//! Several calls in one turn, through both APIs: where they are allowed, in the order of the document's events, and
//! back again with their results.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SseEvent, TestServer};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";

/// The model thinks, then calls three tools, one of them twice.
const RULES: &str = r#"[{"pattern": "both", "after_tools": false, "text": "<|channel|>analysis<|message|>All three.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Linz\"}<|end|><|start|>assistant<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{\"zone\":\"CET\"}<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Graz\"}<|call|>"},
    {"pattern": "rambles", "after_tools": false, "text": "<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{\"zone\":\"CET\"}<|end|><|start|>assistant<|channel|>final<|message|>It is noon.<|return|>"}]"#;

const CALLS: [(&str, &str); 3] = [
    ("get_weather", r#"{"city":"Linz"}"#),
    ("get_time", r#"{"zone":"CET"}"#),
    ("get_weather", r#"{"city":"Graz"}"#),
];

fn parameters(name: &str) -> Value {
    json!({"type": "object", "properties": {name: {"type": "string"}}, "required": [name], "additionalProperties": false})
}

fn chat(text: &str, fields: &Value) -> Value {
    let function = |name: &str, field: &str| json!({"type": "function", "function": {"name": name, "strict": true, "parameters": parameters(field)}});
    let mut body = json!({"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 400,
        "tools": [function("get_weather", "city"), function("get_time", "zone")]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn response(input: impl Into<Value>, fields: &Value) -> Value {
    let function = |name: &str, field: &str| json!({"type": "function", "name": name, "strict": true, "parameters": parameters(field)});
    let mut body = json!({"input": input.into(), "temperature": 0, "max_output_tokens": 400,
        "tools": [function("get_weather", "city"), function("get_time", "zone")]});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

/// Name and arguments of each call of a chat message.
fn chat_calls(message: &Value) -> Vec<(&str, &str)> {
    let calls = message["tool_calls"].as_array().unwrap().iter().map(|call| &call["function"]);
    calls.map(|call| (call["name"].as_str().unwrap(), call["arguments"].as_str().unwrap())).collect()
}

fn response_calls(response: &Value) -> Vec<(&str, &str)> {
    let items = response["output"].as_array().unwrap().iter();
    let calls = items.filter(|item| item["type"] == "function_call");
    calls.map(|call| (call["name"].as_str().unwrap(), call["arguments"].as_str().unwrap())).collect()
}

fn ids<'a>(calls: impl Iterator<Item = &'a Value>, field: &str) -> Vec<String> {
    let ids: Vec<String> = calls.map(|call| call[field].as_str().unwrap().to_owned()).collect();
    assert!(ids.iter().collect::<std::collections::HashSet<_>>().len() == ids.len(), "{ids:?}");
    ids
}

#[tokio::test]
async fn chat_has_all_calls_whole_and_streamed() {
    let server = TestServer::new(RULES);
    for choice in ["auto", "required"] {
        let request = chat("both", &json!({"tool_choice": choice}));
        let whole = server.ok(CHAT, &request).await;
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert_eq!(chat_calls(&choice["message"]), CALLS);
        assert_eq!(choice["message"]["reasoning"], "All three.");
        ids(choice["message"]["tool_calls"].as_array().unwrap().iter(), "id");

        let mut streamed = [const { (String::new(), String::new()) }; 3];
        for chunk in server.stream(CHAT, &request).await {
            for call in chunk.data["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let (name, arguments) = &mut streamed[call["index"].as_u64().unwrap() as usize];
                name.push_str(call["function"]["name"].as_str().unwrap_or_default());
                arguments.push_str(call["function"]["arguments"].as_str().unwrap());
            }
        }
        assert_eq!(streamed.each_ref().map(|(name, arguments)| (&**name, &**arguments)), CALLS);
    }
}

#[tokio::test]
async fn responses_have_all_calls_whole_and_streamed() {
    let server = TestServer::new(RULES);
    for choice in ["auto", "required"] {
        let request = response("both", &json!({"tool_choice": choice}));
        let whole = server.ok(RESPONSES, &request).await;
        assert_eq!((&whole["status"], &whole["parallel_tool_calls"]), (&json!("completed"), &json!(true)));
        assert_eq!(response_calls(&whole), CALLS);

        let events: Vec<SseEvent> = server.stream(RESPONSES, &request).await;
        let last = &events.last().unwrap().data["response"];
        assert_eq!(response_calls(last), CALLS);
        let done = events.iter().filter(|event| event.name == "response.function_call_arguments.done");
        let done: Vec<_> =
            done.map(|event| (&event.data["output_index"], &event.data["arguments"])).collect();
        let expected = [1, 2, 3].map(Value::from);
        assert!(
            done.iter()
                .zip(&expected)
                .zip(CALLS)
                .all(|(((at, arguments), index), (_, expected))| { *at == index && **arguments == expected })
        );
        ids(last["output"].as_array().unwrap()[1..].iter(), "call_id");
    }
}

#[tokio::test]
async fn at_most_one_call_where_no_more_are_wanted() {
    let server = TestServer::new(RULES);
    let single = json!({"parallel_tool_calls": false});
    let whole = server.ok(CHAT, &chat("both", &single)).await;
    assert_eq!(chat_calls(&whole["choices"][0]["message"]), CALLS[..1]);
    let whole = server.ok(RESPONSES, &response("both", &single)).await;
    assert_eq!((response_calls(&whole), &whole["parallel_tool_calls"]), (CALLS[..1].to_vec(), &json!(false)));
    // The deprecated shape has room for one.
    let mut legacy = chat("both", &json!({}));
    legacy["functions"] = json!([{"name": "get_weather", "parameters": parameters("city")}]);
    legacy.as_object_mut().unwrap().remove("tools");
    let whole = server.ok(CHAT, &legacy).await;
    let choice = &whole["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["function_call"]["arguments"]),
        (&json!("function_call"), &json!(CALLS[0].1))
    );
    assert_eq!(choice["message"].get("tool_calls"), None);
}

/// A model that goes on to an answer after its call would have to make the result up.
#[tokio::test]
async fn what_follows_a_call_is_not_waited_for() {
    let server = TestServer::new(RULES);
    let whole = server.ok(CHAT, &chat("rambles", &json!({}))).await;
    let message = &whole["choices"][0]["message"];
    assert_eq!((chat_calls(message), &message["content"]), (CALLS[1..2].to_vec(), &Value::Null));
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
}

/// The prompt of a request, as text.
async fn prompt(server: &TestServer, messages: &Value) -> String {
    let mut request = chat("", &json!({}));
    request["messages"] = messages.clone();
    let rendered = server.ok("/v1/chat/completions/render", &request).await;
    rendered["prompt"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn results_come_back_in_any_order() {
    let server = TestServer::new(RULES);
    let whole = server.ok(CHAT, &chat("both", &json!({}))).await;
    let message = &whole["choices"][0]["message"];
    let ids = ids(message["tool_calls"].as_array().unwrap().iter(), "id");
    let result = |i: usize| json!({"role": "tool", "tool_call_id": ids[i], "content": format!("result {i}")});
    let history = |order: [usize; 3]| {
        let mut messages = vec![json!({"role": "user", "content": "both"}), message.clone()];
        messages.extend(order.map(result));
        Value::Array(messages)
    };
    let expected = "<|start|>user<|message|>both<|end|>\
        <|start|>assistant<|channel|>analysis<|message|>All three.<|end|>\
        <|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{\"city\":\"Linz\"}<|call|>\
        <|start|>assistant to=functions.get_time<|channel|>commentary <|constrain|>json<|message|>{\"zone\":\"CET\"}<|call|>\
        <|start|>assistant to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{\"city\":\"Graz\"}<|call|>\
        <|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>result 0<|end|>\
        <|start|>functions.get_time to=assistant<|channel|>commentary<|message|>result 1<|end|>\
        <|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>result 2<|end|>\
        <|start|>assistant";
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let prompt = prompt(&server, &history(order)).await;
        assert!(prompt.ends_with(expected), "{prompt}");
    }
    let answer = server
        .ok(CHAT, &json!({"messages": history([2, 0, 1]), "tools": chat("", &json!({}))["tools"]}))
        .await;
    assert_eq!(answer["choices"][0]["message"]["content"], "The tool says: result 0\nresult 1\nresult 2");
}

#[tokio::test]
async fn results_come_back_by_items_and_by_id() {
    let server = TestServer::new(RULES);
    let first = server.ok(RESPONSES, &response("both", &json!({}))).await;
    let output = first["output"].as_array().unwrap();
    let results: Vec<Value> = output[1..].iter().rev().enumerate().map(|(i, call)| {
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": format!("result {}", 2 - i)})
    }).collect();
    let said = "The tool says: result 0\nresult 1\nresult 2";
    let by_id = json!({"previous_response_id": first["id"]});
    let answer = server.ok(RESPONSES, &response(Value::Array(results.clone()), &by_id)).await;
    assert_eq!(answer["output"][1]["content"][0]["text"], said);
    let items = [&[json!({"role": "user", "content": "both"})], &output[..], &results[..]].concat();
    let answer = server.ok(RESPONSES, &response(Value::Array(items), &json!({}))).await;
    assert_eq!(answer["output"][1]["content"][0]["text"], said);
}
