//! What outlives a request, on every kind of store: responses, their streams and chains, conversations, stored
//! chat completions.
#![allow(clippy::unwrap_used)]

mod background;
#[path = "../common/mod.rs"]
mod common;
mod objects;
mod responses;
mod thought;

use common::stores::{TestStore, stores};
use serde_json::{Value, json};

const PATH: &str = "/v1/responses";
/// `slowly` takes some five seconds, `steadily` a tenth of one.
const RULES: &str = r#"[
    {"pattern": "sum", "text": "<|channel|>analysis<|message|>17 plus 25.<|end|><|start|>assistant<|channel|>final<|message|>It is 42, déjà vu 🦀.<|return|>"},
    {"pattern": "slowly", "text": "tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick", "delay_ms": 50},
    {"pattern": "steadily", "text": "one two three four five six seven eight nine ten", "delay_ms": 10}
]"#;

fn ask(input: impl Into<Value>, fields: Value) -> Value {
    let mut body = json!({"input": input.into(), "temperature": 0});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    body
}

fn path_of(response: &Value) -> String {
    format!("{PATH}/{}", response["id"].as_str().unwrap())
}

fn weather_tool() -> Value {
    json!({"type": "function", "name": "get_weather", "parameters": {"type": "object",
        "properties": {"city": {"type": "string"}}, "required": ["city"]}})
}

fn last_text(response: &Value) -> &Value {
    &response["output"].as_array().unwrap().last().unwrap()["content"][0]["text"]
}

async fn each<F: AsyncFn(&TestStore)>(test: F) {
    for store in stores() {
        test(&store).await;
    }
}
