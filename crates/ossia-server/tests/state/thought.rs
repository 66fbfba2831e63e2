//! The chain of thought across turns: kept inside a tool loop, dropped after an answer, whichever way it comes back.

use serde_json::{Value, json};

use crate::common::TestServer;
use crate::{PATH, ask, each};

const RULES: &str = r#"[
    {"pattern": "Weather", "text": "<|channel|>analysis<|message|>I should look it up, since I cannot know.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>"}
]"#;

fn tools() -> Value {
    json!([{"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}])
}

async fn count(server: &TestServer, input: &[Value], fields: Value) -> u64 {
    let mut body = ask(input.to_vec(), fields);
    body["tools"] = tools();
    server.ok("/v1/responses/input_tokens", &body).await["input_tokens"].as_u64().unwrap()
}

/// Prompt tokens of what a chat client that returns `reasoning` sends.
async fn count_chat(server: &TestServer, reasoning: Option<&str>, rest: &[Value]) -> u64 {
    let function = json!({"name": "get_weather", "arguments": "{}"});
    let call = json!({"id": "c", "type": "function", "function": function});
    let mut messages = vec![
        json!({"role": "user", "content": "Weather?"}),
        json!({"role": "assistant", "content": null, "reasoning": reasoning, "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": "c", "content": "Rain"}),
    ];
    messages.extend_from_slice(rest);
    let parameters = json!({"type": "object", "properties": {}});
    let tool = json!({"type": "function", "function": {"name": "get_weather", "parameters": parameters}});
    let body = json!({"messages": messages, "tools": [tool], "max_tokens": 1});
    server.ok("/v1/chat/completions", &body).await["usage"]["prompt_tokens"].as_u64().unwrap()
}

fn result(output: &[Value]) -> Value {
    let call_id = &output.last().unwrap()["call_id"];
    json!({"type": "function_call_output", "call_id": call_id, "output": "Rain"})
}

#[tokio::test]
async fn every_way_back_gives_the_same_prompt() {
    each(async |store| {
        let server = store.server(RULES);
        let conversation = server.ok("/v1/conversations", &json!({})).await;
        let include = json!({"tools": tools(), "include": ["reasoning.encrypted_content"]});
        let first = server.ok(PATH, &ask("Weather?", include)).await;
        let in_conversation = json!({"tools": tools(), "conversation": conversation["id"]});
        let said = server.ok(PATH, &ask("Weather?", in_conversation)).await;

        let output = first["output"].as_array().unwrap();
        let mut items = vec![json!({"role": "user", "content": "Weather?"})];
        items.extend_from_slice(output);
        items.push(result(output));
        let mut sealed = items.clone();
        sealed[1].as_object_mut().unwrap().remove("content");
        let mut without = items.clone();
        without.remove(1);
        let by_conversation = [result(said["output"].as_array().unwrap())];

        // Inside the tool loop, then after an answer.
        let answer = json!({"role": "assistant", "content": "It rains."});
        let after = [answer, json!({"role": "user", "content": "Thanks."})];
        for (rest, kept) in [(&after[..0], true), (&after[..], false)] {
            let with = |items: &[Value]| [items, rest].concat();
            let expected = count(&server, &with(&items), json!({})).await;
            let bare = count(&server, &with(&without), json!({})).await;
            assert_eq!(expected > bare, kept);
            assert_eq!(count(&server, &with(&sealed), json!({})).await, expected);
            let previous = json!({"previous_response_id": first["id"]});
            assert_eq!(count(&server, &with(&[result(output)]), previous).await, expected);
            let conversation = json!({"conversation": conversation["id"]});
            assert_eq!(count(&server, &with(&by_conversation), conversation).await, expected);
            let thought = Some("I should look it up, since I cannot know.");
            assert_eq!(count_chat(&server, thought, rest).await, expected);
            assert_eq!(count_chat(&server, None, rest).await, bare);
        }
    })
    .await;
}
