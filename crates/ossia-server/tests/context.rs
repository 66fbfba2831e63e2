//! Prompts that are too long: refused with both numbers, cut on demand, or compacted.
#![allow(clippy::unwrap_used)]

mod common;

use common::TestServer;
use ossia_scripted::ScriptedOptions;
use ossia_server::ServerConfig;
use serde_json::{Value, json};

const PATH: &str = "/v1/responses";
const RULES: &str = r#"[{"pattern": "Summarise this conversation", "text": "They added 17 and 25."}]"#;
/// Tokens that fit.
const CONTEXT: usize = 512;

fn small() -> TestServer {
    let options = ScriptedOptions {
        num_blocks: 2 * CONTEXT / 16,
        max_position_embeddings: CONTEXT,
        ..ScriptedOptions::default()
    };
    TestServer::with(RULES, options, ServerConfig::default())
}

/// A conversation of so many turns, each of some twenty tokens.
fn turns(num: usize) -> Vec<Value> {
    let turn = |i: usize| {
        [
            json!({"role": "user", "content": format!("question {i}: how much is one and one and one?")}),
            json!({"role": "assistant", "content": "It is three, no more and no less."}),
        ]
    };
    let mut items = vec![json!({"role": "developer", "content": "Be brief."})];
    items.extend((0..num).flat_map(turn));
    items.push(json!({"role": "user", "content": "last"}));
    items
}

#[tokio::test]
async fn a_long_prompt_is_refused_or_cut() {
    let server = small();
    let body =
        |truncation: &str| json!({"input": turns(40), "truncation": truncation, "max_output_tokens": 64});
    let refused = server.post(PATH, &body("disabled")).await;
    let error = &refused.body["error"];
    assert_eq!((refused.status.as_u16(), &error["code"]), (400, &json!("context_length_exceeded")));
    assert!(error["message"].as_str().unwrap().contains(&CONTEXT.to_string()), "{error}");

    let response = server.ok(PATH, &body("auto")).await;
    assert_eq!((&response["status"], &response["truncation"]), (&json!("completed"), &json!("auto")));
    let used = response["usage"]["input_tokens"].as_u64().unwrap() as usize;
    // As much as fits beside the answer, in whole turns.
    assert!(used <= CONTEXT - 64 && used > CONTEXT - 64 - 40, "{used}");
    assert_eq!(
        response["output"].as_array().unwrap().last().unwrap()["content"][0]["text"],
        "This is a scripted answer to: last"
    );

    // What fits is left alone, and what cannot be cut is refused as before.
    let short = json!({"input": turns(3), "max_output_tokens": 64});
    let (whole, cut) = (server.ok(PATH, &short).await, {
        let mut short = short.clone();
        short["truncation"] = "auto".into();
        server.ok(PATH, &short).await
    });
    assert_eq!(whole["usage"]["input_tokens"], cut["usage"]["input_tokens"]);
    let long = json!({"input": "word ".repeat(2 * CONTEXT), "truncation": "auto"});
    assert_eq!(server.post(PATH, &long).await.body["error"]["code"], "context_length_exceeded");
    assert_eq!(server.post(PATH, &json!({"input": "x", "truncation": "some"})).await.status, 400);
}

#[tokio::test]
async fn a_conversation_is_compacted_and_goes_on() {
    let server = TestServer::new(RULES);
    let compacted = server.ok("/v1/responses/compact", &json!({"input": turns(3)})).await;
    assert_eq!(compacted["object"], "response.compaction");
    assert!(compacted["usage"]["output_tokens"].as_u64().unwrap() > 0);
    let output = compacted["output"].as_array().unwrap();
    let kinds: Vec<&str> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "message", "message", "message", "compaction"]);
    assert_eq!(output[3]["content"], json!([{"type": "input_text", "text": "last"}]));
    assert!(output[4].get("summary").is_none());

    let count = async |items: &[Value]| {
        let body = json!({"input": items});
        server.ok("/v1/responses/input_tokens", &body).await["input_tokens"].as_u64().unwrap()
    };
    let summary = common::tokenizer::small().encode_ordinary("They added 17 and 25.").len() as u64;
    assert!(count(output).await > count(&output[..4]).await + summary);
    let mut next = output.clone();
    next.push(json!({"role": "user", "content": "And now?"}));
    let response = server.ok(PATH, &json!({"input": next})).await;
    let items =
        server.read(&format!("{PATH}/{}/input_items?order=asc", response["id"].as_str().unwrap())).await;
    assert_eq!(items["data"][4], output[4]);

    let mut other = output[4].clone();
    other["type"] = "reasoning".into();
    let refused = server.post(PATH, &json!({"input": [other]})).await;
    assert_eq!(refused.body["error"]["param"], "input[0].encrypted_content");

    let by_id = json!({"previous_response_id": response["id"]});
    let again = server.ok("/v1/responses/compact", &by_id).await;
    assert_eq!(again["output"].as_array().unwrap().len(), 6);
}
