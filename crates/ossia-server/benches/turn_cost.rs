//! What a token costs besides the model: the engine's thread between two passes of a runner that only recites, and the
//! processor time of the whole way to the client. `cargo bench -p ossia-server`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{TestServer, tokenizer};
use futures::StreamExt;
use ossia_engine::{ModelRunner, RunnerError, RunnerSpec};
use ossia_model::{ForwardBatch, Logits};
use ossia_scripted::{Rules, ScriptedOptions, ScriptedRunner};
use ossia_server::ServerConfig;
use serde_json::{Value, json};

/// Turns of each case, over which the least time of each token is taken.
const ROUNDS: usize = 10;

/// Measures the time between its passes, while all sequences decode.
struct Timed {
    inner: ScriptedRunner,
    last: Option<Instant>,
    gaps: Gaps,
}

/// What is measured, shared with the runner.
#[derive(Clone, Default)]
struct Gaps(Arc<Mutex<Measured>>);

#[derive(Default)]
struct Measured {
    /// Time between two passes, with the number of sequences.
    between: Vec<(Duration, usize)>,
    within: Duration,
}

impl ModelRunner for Timed {
    fn spec(&self) -> RunnerSpec {
        self.inner.spec()
    }

    fn forward(&mut self, batch: &ForwardBatch, logits: &mut Logits) -> Result<(), RunnerError> {
        let start = Instant::now();
        let decodes = batch.input_ids.len() == batch.logits_indices.len();
        if let (Some(last), true) = (self.last, decodes) {
            self.gaps.0.lock().unwrap().between.push((start - last, batch.logits_indices.len()));
        }
        let done = self.inner.forward(batch, logits);
        let end = Instant::now();
        self.gaps.0.lock().unwrap().within += end - start;
        self.last = Some(end);
        done
    }
}

struct Case {
    name: &'static str,
    path: &'static str,
    request: Value,
    text: String,
}

fn order_schema() -> Value {
    json!({"type": "object", "properties": {
        "customer": {"type": "object", "properties": {
            "name": {"type": "string"}, "email": {"type": "string"}, "vip": {"type": "boolean"}},
            "required": ["name", "email", "vip"], "additionalProperties": false},
        "items": {"type": "array", "items": {"type": "object", "properties": {
            "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
            "price": {"type": "number"}, "note": {"type": ["string", "null"]}},
            "required": ["sku", "quantity", "price", "note"], "additionalProperties": false}},
        "status": {"enum": ["new", "paid", "shipped"]}},
        "required": ["customer", "items", "status"], "additionalProperties": false})
}

fn order() -> String {
    let item = |i: usize| {
        let note = i.is_multiple_of(2).then_some("Please leave it with the neighbours, the bell is broken.");
        json!({"sku": format!("ABC-{i:04}"), "quantity": i + 1, "price": 9.5 * i as f64, "note": note})
    };
    json!({"customer": {"name": "Ada Lovelace", "email": "ada@example.org", "vip": true},
        "items": (0..12).map(item).collect::<Vec<Value>>(), "status": "paid"})
    .to_string()
}

fn cases() -> Vec<Case> {
    let chat = "/v1/chat/completions";
    let words = "some plain words of an answer that goes on ".repeat(40);
    let message = |name: &str| json!([{"role": "user", "content": name}]);
    let format = |name: &str, schema: Value| json!({"messages": message(name), "response_format": {"type": "json_schema", "json_schema": {"name": "order", "strict": true, "schema": schema}}});
    let tool = |name: &str, syntax: &str, definition: &str| {
        let format = json!({"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}});
        json!({"messages": message(name), "tools": [{"type": "custom", "custom": {"name": "write", "format": format}}]})
    };
    let call = |text: &str| format!("<|channel|>commentary to=functions.write<|message|>{text}<|call|>");
    let final_ = |text: &str| format!("<|channel|>final<|message|>{text}<|return|>");
    vec![
        Case {
            name: "raw text",
            path: "/v1/completions",
            request: json!({"prompt": "<|start|>user<|message|>raw text<|end|><|start|>assistant", "max_tokens": 300}),
            text: final_(&words),
        },
        Case {
            name: "free text",
            path: chat,
            request: json!({"messages": message("free text")}),
            text: final_(&words),
        },
        Case {
            name: "JSON schema",
            path: chat,
            request: format("JSON schema", order_schema()),
            text: final_(&order()),
        },
        Case {
            name: "JSON object",
            path: chat,
            request: json!({"messages": message("JSON object"), "response_format": {"type": "json_object"}}),
            text: final_(&order()),
        },
        Case {
            name: "regex",
            path: chat,
            request: tool("regex", "regex", "([A-Za-z]+ ){3,500}end"),
            text: call(&format!("{words}end")),
        },
        Case {
            name: "Lark lines",
            path: chat,
            request: tool(
                "Lark lines",
                "lark",
                "start: \"*** Begin\" LF line+ \"*** End\"\nline: (\"+\" | \"-\" | \" \") /(.*)/ LF\n%import common.LF",
            ),
            text: call(&format!(
                "*** Begin\n{}*** End",
                "+    let x = vec![\"a\", \"b\"]; // why\n".repeat(25)
            )),
        },
    ]
}

/// Processor time of this process so far, from the kernel's account.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<u64> = stat
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|f| f.parse().unwrap())
        .collect();
    Duration::from_millis((fields[0] + fields[1]) * 10)
}

#[tokio::main]
async fn main() {
    let cases = cases();
    let rules: Vec<Value> =
        cases.iter().map(|case| json!({"pattern": case.name, "text": case.text})).collect();
    let rules = Rules::from_json(&Value::from(rules).to_string()).unwrap();
    let options = ScriptedOptions { num_blocks: 8192, ..ScriptedOptions::default() };
    let tokenizer = tokenizer::o200k();
    let gaps = Gaps::default();
    let inner = ScriptedRunner::new(tokenizer.clone(), rules, options).unwrap();
    let runner = Timed { inner, last: None, gaps: gaps.clone() };
    let server = TestServer::of_runner(Box::new(runner), tokenizer, ServerConfig::default());
    for case in &cases {
        for num_seqs in [1, 8] {
            measure(&server, &gaps, case, num_seqs).await;
        }
    }
}

async fn measure(server: &TestServer, gaps: &Gaps, case: &Case, num_seqs: usize) {
    let mut request = case.request.clone();
    request["temperature"] = 0.into();
    let mut least: Vec<Duration> = Vec::new();
    let (mut num_tokens, mut processor) = (0, Duration::ZERO);
    for round in 0..=ROUNDS {
        *gaps.0.lock().unwrap() = Measured::default();
        let before = processor_time();
        let streams = futures::stream::iter(0..num_seqs).map(|_| server.stream(case.path, &request));
        let events: Vec<_> = streams.buffer_unordered(num_seqs).collect().await;
        let spent = processor_time() - before;
        let Measured { between: found, within } = std::mem::take(&mut *gaps.0.lock().unwrap());
        if round == 0 {
            continue; // compiles the grammar
        }
        assert!(events.iter().all(|events| events.len() > 50), "{}", case.name);
        num_tokens += found.iter().map(|(_, num_rows)| num_rows).sum::<usize>();
        processor += spent.saturating_sub(within);
        let per_row =
            found.iter().filter(|(_, rows)| *rows == num_seqs).map(|(gap, rows)| *gap / *rows as u32);
        least = if least.is_empty() {
            per_row.collect()
        } else {
            per_row.zip(least).map(|(a, b)| a.min(b)).collect()
        };
    }
    least.sort_unstable();
    let at = |share: f64| least[((least.len() - 1) as f64 * share) as usize];
    let mean = least.iter().sum::<Duration>() / least.len() as u32;
    println!(
        "{}, {num_seqs} sequences, {} passes; engine thread per token and sequence: mean {mean:?}, median {:?}, 95% {:?}, worst {:?}; processor per token, the runner's passes apart: {:?}",
        case.name,
        least.len(),
        at(0.5),
        at(0.95),
        at(1.0),
        processor / num_tokens as u32
    );
}
