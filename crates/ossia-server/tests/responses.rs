//! `/v1/responses` end to end: engine, masks, parser, routes and store over the scripted runner.
#![allow(clippy::unwrap_used)]

mod common;

use common::{SseEvent, TestServer};
use serde_json::{Value, json};

const PATH: &str = "/v1/responses";

const RULES: &str = r#"[
    {"pattern": "sum", "text": "<|channel|>analysis<|message|>17 plus 25.<|end|><|start|>assistant<|channel|>final<|message|>It is 42, déjà vu 🦀.<|return|>"},
    {"pattern": "preamble", "text": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Paris\"}<|call|>"},
    {"pattern": "count", "text": "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"}
]"#;

fn ask(input: impl Into<Value>) -> Value {
    json!({"input": input.into(), "temperature": 0})
}

fn with(mut body: Value, fields: Value) -> Value {
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn weather_tool() -> Value {
    json!({"type": "function", "name": "get_weather", "description": "Current weather", "strict": true,
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}})
}

fn names(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| event.name.as_str()).collect()
}

/// Everything of a response but what is fresh each time.
fn settled(response: &Value) -> Value {
    let mut response = response.clone();
    let fresh = ["id", "created_at", "completed_at", "usage"];
    response.as_object_mut().unwrap().retain(|key, _| !fresh.contains(&key.as_str()));
    for item in response["output"].as_array_mut().unwrap() {
        item.as_object_mut().unwrap().retain(|key, _| key != "id" && key != "call_id");
    }
    response
}

/// Puts a response together from its events, checking order, indices and ids on the way.
fn fold(events: &[SseEvent]) -> Value {
    let mut output: Vec<Value> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        let data = &event.data;
        assert_eq!(data["type"], event.name.as_str());
        assert_eq!(data["sequence_number"], number);
        let index = data["output_index"].as_u64().map(|index| index as usize);
        if let (Some(index), Some(id)) = (index, data["item_id"].as_str()) {
            assert_eq!(index, output.len() - 1, "only the last item changes");
            assert_eq!(output[index]["id"], id);
        }
        match event.name.as_str() {
            "response.output_item.added" => {
                assert_eq!(index, Some(output.len()));
                output.push(data["item"].clone());
            }
            "response.content_part.added" => {
                let content = output[index.unwrap()]["content"].as_array_mut().unwrap();
                assert_eq!(data["content_index"], content.len());
                content.push(data["part"].clone());
            }
            "response.output_text.delta" | "response.reasoning_text.delta" => {
                append(&mut output[index.unwrap()]["content"][0]["text"], &data["delta"]);
                if let Some(logprobs) = data["logprobs"].as_array() {
                    let kept = output[index.unwrap()]["content"][0]["logprobs"].as_array_mut().unwrap();
                    kept.extend(logprobs.iter().cloned());
                }
            }
            "response.function_call_arguments.delta" => {
                append(&mut output[index.unwrap()]["arguments"], &data["delta"]);
            }
            "response.output_text.done" | "response.reasoning_text.done" => {
                assert_eq!(output[index.unwrap()]["content"][0]["text"], data["text"]);
            }
            "response.content_part.done" => assert_eq!(output[index.unwrap()]["content"][0], data["part"]),
            "response.function_call_arguments.done" => {
                assert_eq!(output[index.unwrap()]["arguments"], data["arguments"]);
                assert_eq!(output[index.unwrap()]["name"], data["name"]);
            }
            "response.output_item.done" => {
                let item = &mut output[index.unwrap()];
                assert_eq!(item["status"], "in_progress");
                item["status"] = data["item"]["status"].clone();
                assert_eq!(*item, data["item"]);
            }
            "response.created" | "response.in_progress" => assert_eq!(data["response"]["usage"], Value::Null),
            "response.completed" | "response.incomplete" => {
                assert_eq!(number, events.len() - 1);
                assert_eq!(data["response"]["output"], Value::Array(output.clone()));
            }
            other => panic!("unexpected event {other}"),
        }
    }
    events.last().unwrap().data["response"].clone()
}

fn append(text: &mut Value, delta: &Value) {
    assert_ne!(delta, "");
    *text = format!("{}{}", text.as_str().unwrap(), delta.as_str().unwrap()).into();
}

#[tokio::test]
async fn a_stream_says_what_a_whole_response_says() {
    let server = TestServer::new(RULES);
    let tools = json!({"tools": [weather_tool(), {"type": "web_search"}]});
    let bodies = [
        ask("sum"),
        ask("hello"),
        with(ask("sum"), json!({"include": ["message.output_text.logprobs"], "top_logprobs": 2})),
        with(ask("count"), json!({"max_output_tokens": 16})),
        with(ask("preamble"), tools.clone()),
        with(ask("hello"), with(tools, json!({"tool_choice": {"type": "function", "name": "get_weather"}}))),
        with(
            ask("hello"),
            json!({
                "instructions": "Be brief.", "metadata": {"a": "b"}, "reasoning": {"effort": "high", "summary": "auto"},
                "user": "u", "store": false, "text": {"verbosity": "low"}, "max_tool_calls": 3,
            }),
        ),
    ];
    for body in bodies {
        let whole = server.ok(PATH, &body).await;
        let events = server.stream(PATH, &body).await;
        let folded = fold(&events);
        assert_eq!(settled(&folded), settled(&whole), "{body}");
        for counts in ["input_tokens", "output_tokens", "total_tokens", "output_tokens_details"] {
            assert_eq!(folded["usage"][counts], whole["usage"][counts]);
        }
    }
}

#[tokio::test]
async fn events_come_in_order() {
    let server = TestServer::new(RULES);
    let events = server.stream(PATH, &with(ask("preamble"), json!({"tools": [weather_tool()]}))).await;
    let mut found = names(&events);
    found.dedup(); // deltas
    let text = |kind| {
        let (delta, done) = match kind {
            "reasoning" => ("response.reasoning_text.delta", "response.reasoning_text.done"),
            _ => ("response.output_text.delta", "response.output_text.done"),
        };
        let (added, part) = ("response.output_item.added", "response.content_part.added");
        vec![added, part, delta, done, "response.content_part.done", "response.output_item.done"]
    };
    let call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ];
    let mut expected = vec!["response.created", "response.in_progress"];
    expected.extend(text("reasoning"));
    expected.extend(text("message"));
    expected.extend(call);
    expected.push("response.completed");
    assert_eq!(found, expected);

    let response = &events.last().unwrap().data["response"];
    assert_eq!(response["output"][1]["phase"], "commentary");
    assert_eq!(response["output"][2]["name"], "get_weather");
    assert_eq!(response["output"][2]["arguments"], "{\"city\":\"Paris\"}");
    assert_eq!(response["status"], "completed");
}

#[tokio::test]
async fn pieces_of_text_are_padded_where_that_is_asked_for() {
    let server = TestServer::new(RULES);
    let padded = with(ask("sum"), json!({"stream_options": {"include_obfuscation": true}}));
    let background = with(padded.clone(), json!({"background": true}));
    let check = |events: &[SseEvent]| {
        let (deltas, others): (Vec<_>, Vec<_>) =
            events.iter().partition(|event| event.data.get("delta").is_some());
        assert!(deltas.len() > 5 && others.iter().all(|event| event.data.get("obfuscation").is_none()));
        for SseEvent { data, .. } in deltas {
            let len = data["delta"].as_str().unwrap().len() + data["obfuscation"].as_str().unwrap().len();
            assert_eq!(len % 32, 0, "{data}");
        }
    };
    let events = server.stream(PATH, &padded).await;
    check(&events);
    check(&server.stream(PATH, &background).await);
    let id = events[0].data["response"]["id"].as_str().unwrap();
    let path = format!("{PATH}/{id}?stream=true");
    check(&server.replay(&format!("{path}&include_obfuscation=true")).await);
    let plain = server.replay(&path).await;
    assert!(plain.iter().all(|event| event.data.get("obfuscation").is_none()));
}

#[tokio::test]
async fn a_cut_response_is_incomplete() {
    let server = TestServer::new(RULES);
    let response = server.ok(PATH, &with(ask("count"), json!({"max_output_tokens": 16}))).await;
    assert_eq!(response["status"], "incomplete");
    assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["usage"]["output_tokens"], 16);
    assert_eq!(response["completed_at"], Value::Null);
}

#[tokio::test]
async fn a_tool_round_trip_with_items_and_with_a_stored_response() {
    let server = TestServer::new("[]");
    let tools = json!({"tools": [weather_tool()]});
    let first = server.ok(PATH, &with(ask("Weather?"), tools.clone())).await;
    let call = first["output"].as_array().unwrap().last().unwrap();
    assert_eq!(call["type"], "function_call");
    let result = json!({"type": "function_call_output", "call_id": call["call_id"], "output": "Rain"});

    let mut items = vec![json!({"role": "user", "content": "Weather?"})];
    items.extend(first["output"].as_array().unwrap().clone());
    items.push(result.clone());
    let by_items = server.ok(PATH, &with(ask(items), tools.clone())).await;
    let by_id = with(ask(json!([result])), with(tools, json!({"previous_response_id": first["id"]})));
    let by_id = server.ok(PATH, &by_id).await;
    for response in [&by_items, &by_id] {
        let text = &response["output"].as_array().unwrap().last().unwrap()["content"][0]["text"];
        assert_eq!(text, "The tool says: Rain");
    }
    assert_eq!(by_items["usage"]["input_tokens"], by_id["usage"]["input_tokens"]);
    assert_eq!(by_id["previous_response_id"], first["id"]);
}

#[tokio::test]
async fn stored_responses_can_be_read_and_deleted() {
    let server = TestServer::new(RULES);
    let input =
        json!([{"role": "user", "content": "hello"}, {"type": "message", "role": "user", "content": "sum"}]);
    let response = server.ok(PATH, &ask(input)).await;
    let path = format!("{PATH}/{}", response["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.body, response);

    let items = server.get(&format!("{path}/input_items?limit=1")).await.body;
    assert_eq!(items["data"][0]["content"][0], json!({"type": "input_text", "text": "sum"}));
    assert_eq!(items["has_more"], true);
    let after = items["last_id"].as_str().unwrap();
    let items = server.get(&format!("{path}/input_items?after={after}")).await.body;
    assert_eq!(items["data"][0]["content"][0]["text"], "hello");
    assert_eq!(items["has_more"], false);

    let reference = json!([{"role": "user", "content": "sum"}, {"type": "item_reference", "id": response["output"][1]["id"]}, {"role": "user", "content": "hello"}]);
    server.ok(PATH, &with(ask(reference.clone()), json!({"store": false}))).await;

    let delete = axum::http::Request::delete(&path).body(axum::body::Body::empty()).unwrap();
    let deleted = server.send(delete).await;
    assert_eq!(deleted.body, json!({"id": response["id"], "object": "response", "deleted": true}));
    assert_eq!(server.get(&path).await.status, 404);
    let gone = server.post(PATH, &ask(reference)).await;
    assert_eq!((gone.status.as_u16(), &gone.body["error"]["param"]), (400, &json!("input[1].id")));

    let unstored = server.ok(PATH, &with(ask("sum"), json!({"store": false}))).await;
    assert_eq!(server.get(&format!("{PATH}/{}", unstored["id"].as_str().unwrap())).await.status, 404);
}

#[tokio::test]
async fn every_key_of_the_response_object_is_sent() {
    let server = TestServer::new(RULES);
    let response = server.ok(PATH, &ask("sum")).await;
    let keys = [
        "id",
        "object",
        "created_at",
        "status",
        "background",
        "completed_at",
        "conversation",
        "error",
        "incomplete_details",
        "instructions",
        "max_output_tokens",
        "max_tool_calls",
        "metadata",
        "model",
        "output",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt",
        "prompt_cache_key",
        "prompt_cache_retention",
        "reasoning",
        "safety_identifier",
        "service_tier",
        "store",
        "temperature",
        "text",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "truncation",
        "usage",
    ];
    for key in keys {
        assert!(response.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(response["tool_choice"], "auto");
    assert_eq!(response["text"], json!({"format": {"type": "text"}, "verbosity": "medium"}));
    assert_eq!(response["reasoning"], json!({"effort": "medium", "summary": null}));
    let usage = &response["usage"];
    let thought = common::tokenizer::small().encode_ordinary("17 plus 25.").len();
    assert_eq!(usage["output_tokens_details"]["reasoning_tokens"], thought);
    assert_eq!(usage["input_tokens_details"]["cached_tokens"], 0);
}
