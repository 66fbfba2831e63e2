//! For any turn: the events of both APIs are a valid stream, and folding them as a client does gives the answer
//! that is sent whole.

use serde_json::{Value, json};

use super::chat::{ChunkBuilder, CompletionFold};
use super::responses::EventBuilder;
use crate::prepare::echo;
use crate::store::EventLog;
use crate::turn::{EndReason, TurnEvent};
use crate::wire::responses::{ResponseRequest, SequencedEvent};

/// Checks both APIs on the events of one turn.
pub(crate) fn fold_check(events: &[TurnEvent]) {
    check_chat(events, false);
    check_chat(events, true);
    check_responses(events);
}

fn has_failed(events: &[TurnEvent]) -> bool {
    matches!(events.last(), Some(TurnEvent::Finished(end)) if matches!(end.reason, EndReason::Failed(_)))
}

fn check_chat(events: &[TurnEvent], legacy_calls: bool) {
    let mut builder = ChunkBuilder::for_test(legacy_calls);
    let mut fold = CompletionFold::new(1);
    let (mut content, mut reasoning, mut arguments) = (String::new(), String::new(), Vec::<String>::new());
    for event in events {
        let chunk = match builder.push(0, event.clone()) {
            Ok(None) => continue,
            Ok(Some(chunk)) => chunk,
            Err(_) => return assert!(has_failed(events)),
        };
        fold.push(&chunk);
        let delta = serde_json::to_value(&chunk).expect("chunks are JSON")["choices"][0]["delta"].clone();
        content.push_str(delta["content"].as_str().unwrap_or_default());
        reasoning.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().expect("an index") as usize;
            arguments.resize_with(arguments.len().max(index + 1), String::new);
            arguments[index].push_str(content_of(call));
        }
        if let Some(text) = delta["function_call"]["arguments"].as_str() {
            arguments.resize_with(1, String::new);
            arguments[0].push_str(text);
        }
    }
    assert!(!has_failed(events));
    let whole =
        serde_json::to_value(fold.finish(&builder.usage_chunk(), None)).expect("completions are JSON");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"].as_str().unwrap_or_default(), content);
    assert_eq!(message["reasoning"].as_str().unwrap_or_default(), reasoning);
    let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
    let legacy = message["function_call"]["arguments"].as_str();
    let found = calls.iter().map(content_of).chain(legacy);
    assert_eq!(found.collect::<Vec<_>>(), arguments);
    let reason = if legacy_calls { "function_call" } else { "tool_calls" };
    let called = !arguments.is_empty() && ended_by_call(events);
    assert_eq!(whole["choices"][0]["finish_reason"] == reason, called);
}

/// The arguments of a function's call, or the input of a custom tool's.
fn content_of(call: &Value) -> &str {
    let content = call["function"].get("arguments").or_else(|| call["custom"].get("input"));
    content.and_then(Value::as_str).expect("a call has content")
}

fn ended_by_call(events: &[TurnEvent]) -> bool {
    matches!(events.last(), Some(TurnEvent::Finished(end)) if end.reason == EndReason::ToolCalls)
}

fn check_responses(events: &[TurnEvent]) {
    let response = echo::response(ResponseRequest::default(), "m".to_owned());
    let mut builder = EventBuilder::new(response);
    let mut stream = builder.begin();
    for event in events {
        stream.extend(builder.push(event.clone()));
    }
    let terminals = stream.iter().filter(|event| event.event.terminal().is_some()).count();
    assert_eq!(terminals, 1);
    let values: Vec<Value> = stream.iter().map(|event| serde_json::to_value(event).expect("JSON")).collect();
    for (number, (event, value)) in stream.iter().zip(&values).enumerate() {
        assert_eq!(value["sequence_number"], number);
        assert_eq!(value["type"], event.event.name());
    }
    let last = values.last().expect("a stream has events");
    assert_eq!(last["response"]["output"], fold_output(&stream, &values));
    let mut log = EventLog::default();
    values.iter().for_each(|value| log.push(value.clone()));
    let kept = EventLog::unpack(&log.pack(), &last["response"]);
    assert!(kept.iter().map(|event| &event.data).eq(&values), "a stream that is taken up again is the same");
}

/// The output items that a client has when the stream ends.
fn fold_output(stream: &[SequencedEvent], values: &[Value]) -> Value {
    let mut output: Vec<Value> = Vec::new();
    for (event, value) in stream.iter().zip(values) {
        let index = value["output_index"].as_u64().unwrap_or_default() as usize;
        match event.event.name() {
            "response.output_item.added" => {
                assert_eq!(index, output.len());
                output.push(value["item"].clone());
            }
            "response.content_part.added" => output[index]["content"] = json!([value["part"]]),
            "response.output_text.delta" | "response.reasoning_text.delta" => {
                append(&mut output[index]["content"][0]["text"], &value["delta"]);
                if let Some(kept) =
                    output[index]["content"][0].get_mut("logprobs").and_then(Value::as_array_mut)
                {
                    kept.extend(value["logprobs"].as_array().into_iter().flatten().cloned());
                }
            }
            "response.function_call_arguments.delta" => {
                append(&mut output[index]["arguments"], &value["delta"])
            }
            "response.custom_tool_call_input.delta" => append(&mut output[index]["input"], &value["delta"]),
            "response.output_item.done" => {
                output[index]["status"] = value["item"]["status"].clone();
                assert_eq!(output[index], value["item"]);
            }
            _ => {}
        }
    }
    Value::Array(output)
}

fn append(text: &mut Value, delta: &Value) {
    let whole = format!("{}{}", text.as_str().unwrap_or_default(), delta.as_str().unwrap_or_default());
    *text = whole.into();
}
