//! What the grammar of a turn costs per token at the real vocabulary: `cargo bench -p ossia-harmony`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::time::{Duration, Instant};

use ossia_harmony::{
    Allowed, ContentGrammar, EnvelopeGrammar, EnvelopeOptions, GrammarCompiler, GrammarScope, GrammarSource,
    Tokenizer, TurnGrammar,
};
use serde_json::{Value, json};

/// Length of gpt-oss's logits: its vocabulary is padded.
const PADDED_VOCAB_SIZE: usize = 201_088;
const ROUNDS: usize = 50;

const THOUGHT: &str = "The user wants the weather in Linz for three days, so I look it up first.";

fn main() {
    let tokenizer = common::o200k();
    let (compiler, elapsed) = timed(|| GrammarCompiler::new(&tokenizer).unwrap());
    println!("compiler of the vocabulary: {elapsed:?}, once");
    let header = "<|channel|>analysis<|message|>".to_owned();
    let thought = format!("{header}{THOUGHT}");
    let final_header = "<|channel|>final<|message|>".to_owned();
    run(&tokenizer, "headers", &[], &(header.clone() + "<|end|><|start|>assistant" + &final_header), "");
    run(&tokenizer, "free text", &[], &header, &thought[header.len()..].repeat(10));
    for (name, source, text) in cases() {
        let (grammar, elapsed) = timed(|| compiler.compile(&source).unwrap());
        println!("{name}: compiled in {elapsed:?}");
        let rules = [(GrammarScope::Final, grammar)];
        run(&tokenizer, name, &rules, &final_header, &text);
    }
}

fn cases() -> Vec<(&'static str, GrammarSource, String)> {
    let order = json!({"type": "object", "properties": {
        "customer": {"type": "object", "properties": {
            "name": {"type": "string"}, "email": {"type": "string"}, "vip": {"type": "boolean"}},
            "required": ["name", "email", "vip"], "additionalProperties": false},
        "items": {"type": "array", "items": {"type": "object", "properties": {
            "sku": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
            "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
            "price": {"type": "number"}, "note": {"type": ["string", "null"]}},
            "required": ["sku", "quantity", "price", "note"], "additionalProperties": false}},
        "status": {"enum": ["new", "paid", "shipped"]}},
        "required": ["customer", "items", "status"], "additionalProperties": false});
    let item = |i: usize| {
        let note = i.is_multiple_of(2).then_some("Please leave it with the neighbours, the bell is broken.");
        json!({"sku": format!("ABC-{i:04}"), "quantity": i + 1, "price": 9.5 * i as f64, "note": note})
    };
    let text = json!({"customer": {"name": "Ada Lovelace", "email": "ada@example.org", "vip": true},
        "items": (0..12).map(item).collect::<Vec<Value>>(), "status": "paid"});
    let pretty = serde_json::to_string_pretty(&text).unwrap();
    let lark = "start: expr\nexpr: term ((\"+\" | \"-\") term)*\nterm: NUMBER | \"(\" expr \")\"\n\
                NUMBER: /[0-9]+(\\.[0-9]+)?/\n";
    vec![
        (
            "JSON schema",
            GrammarSource::JsonSchema { schema: order.to_string(), lenient: false },
            text.to_string(),
        ),
        (
            "JSON schema, indented",
            GrammarSource::JsonSchema { schema: order.to_string(), lenient: false },
            pretty,
        ),
        ("JSON object", GrammarSource::JsonObject, text.to_string()),
        (
            "regex",
            GrammarSource::Regex("([A-Za-z]+ ){3,200}end".to_owned()),
            "some plain words ".repeat(20) + "end",
        ),
        ("Lark", GrammarSource::Lark(lark.to_owned()), "(12+3.5)-(7+100)+".repeat(15) + "1"),
    ]
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    (work(), started.elapsed())
}

/// Follows `text` after `header` as the engine would, asking before each token what is allowed. Each token's time is
/// the least of all rounds, each of which begins with what the compiler left.
fn run(
    tokenizer: &Tokenizer,
    name: &str,
    rules: &[(GrammarScope, ContentGrammar)],
    header: &str,
    text: &str,
) {
    let options =
        EnvelopeOptions { padded_vocab_size: Some(PADDED_VOCAB_SIZE), ..EnvelopeOptions::default() };
    let header = tokenizer.encode_with_special_tokens(header);
    let ids: Vec<u32> = header.iter().copied().chain(tokenizer.encode_ordinary(text)).collect();
    let mut times = vec![Duration::MAX; ids.len()];
    for _ in 0..ROUNDS {
        let envelope = EnvelopeGrammar::new(tokenizer, &options).unwrap();
        let mut grammar = TurnGrammar::new(envelope, rules.to_vec());
        for (&id, least) in ids.iter().zip(&mut times) {
            let ((), elapsed) = timed(|| step(&mut grammar, id));
            *least = elapsed.min(*least);
        }
        assert_eq!(grammar.failure(), None);
    }
    if !rules.is_empty() {
        println!("{name}: to begin a message {:?}", times[header.len() - 1]);
    }
    let measured = if text.is_empty() { &mut times } else { &mut times[header.len()..] };
    measured.sort_unstable();
    let mean = measured.iter().sum::<Duration>() / measured.len() as u32;
    let at = |share: f64| measured[((measured.len() - 1) as f64 * share) as usize];
    println!(
        "{name}: {} tokens, mean {mean:?}, median {:?}, 95% {:?}, worst {:?}",
        measured.len(),
        at(0.5),
        at(0.95),
        at(1.0)
    );
}

fn step(grammar: &mut TurnGrammar, id: u32) {
    let allowed = match black_box(grammar.allowed()) {
        Allowed::All => true,
        Allowed::Except(ids) => ids.binary_search(&id).is_err(),
        Allowed::Only(ids) => ids.binary_search(&id).is_ok(),
        Allowed::Bitmask(words) => words[id as usize / 32] >> (id % 32) & 1 == 1,
    };
    assert!(allowed, "token {id}");
    grammar.accept(id);
}
