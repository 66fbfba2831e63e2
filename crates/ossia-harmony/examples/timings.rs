//! Prints what the parts of this crate cost on this machine: `cargo run --example timings -- o200k_base.tiktoken`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ossia_harmony::{
    Conversation, DeveloperContent, EnvelopeGrammar, EnvelopeOptions, FunctionTool, Message,
    StreamableParser, Tokenizer,
};
use serde_json::json;

/// Time this thread has had a processor, so that a busy machine does not count; elsewhere than on Linux, the clock.
fn now() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|text| text.split_whitespace().next()?.parse().ok());
    spent.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

/// Mean over enough runs to fill a tenth of a second; the kernel's account of time is coarse.
fn mean<T>(mut run: impl FnMut() -> T) -> Duration {
    let start = now();
    let mut num_runs = 0;
    loop {
        black_box(run());
        num_runs += 1;
        let spent = now().saturating_sub(start);
        if spent >= Duration::from_millis(100) {
            return spent / num_runs;
        }
    }
}

fn conversation(num_turns: usize) -> Conversation {
    let parameters = json!({
        "type": "object",
        "properties": {"city": {"type": "string", "description": "The city and state"}, "days": {"type": "integer", "default": 3}},
        "required": ["city"],
    });
    let tool = |name: &str| FunctionTool {
        name: name.to_owned(),
        description: Some("Gets the weather of a city.".to_owned()),
        parameters: Some(parameters.clone()),
    };
    let mut messages = Vec::new();
    for turn in 0..num_turns {
        messages.push(Message::user(format!(
            "What will the weather be like in city number {turn}, and should I take an umbrella?"
        )));
        messages.push(Message::assistant_analysis("The user wants the weather. I should call the function."));
        messages.push(Message::function_call(
            "get_weather",
            format!("{{\"city\":\"number {turn}\",\"days\":1}}"),
        ));
        messages.push(Message::tool_result(
            "get_weather",
            "{\"temperature\":20,\"condition\":\"light rain in the evening\"}",
        ));
        messages.push(Message::assistant_final(
            "Around 20 degrees, with light rain in the evening: yes, take an umbrella with you.",
        ));
    }
    messages.push(Message::user("And tomorrow?"));
    let tools = ["get_weather", "get_forecast", "set_alarm", "search"].map(tool).to_vec();
    let instructions = Some("You are a helpful weather assistant. Be brief.".to_owned());
    Conversation {
        developer: DeveloperContent { instructions, tools, ..Default::default() },
        messages,
        ..Default::default()
    }
}

fn main() {
    let path = std::env::args().nth(1).unwrap();
    let ranks = std::fs::read(path).unwrap();
    println!("tokenizer from ranks: {:?}", mean(|| Tokenizer::from_tiktoken_ranks(&ranks).unwrap()));
    let tokenizer = Tokenizer::from_tiktoken_ranks(&ranks).unwrap();
    let json = tokenizer.to_json().unwrap();
    println!("tokenizer from tokenizer.json: {:?}", mean(|| Tokenizer::from_bytes(json.as_bytes()).unwrap()));

    for num_turns in [0, 10, 1000] {
        let conversation = conversation(num_turns);
        let num_tokens = conversation.render_prompt(&tokenizer).len();
        let time = mean(|| conversation.render_prompt(&tokenizer));
        println!("render {num_tokens} tokens: {time:?}, {} ns/token", time.as_nanos() / num_tokens as u128);
    }

    let output = format!(
        "<|channel|>analysis<|message|>{}<|end|>",
        "We should think about it step by step. ".repeat(1000)
    );
    let ids = tokenizer.encode_with_special_tokens(&output);
    let time = mean(|| {
        let mut parser = StreamableParser::new(tokenizer.clone());
        ids.iter().map(|&id| parser.push(id).len()).sum::<usize>()
    });
    println!("parse {} tokens: {} ns/token", ids.len(), time.as_nanos() / ids.len() as u128);

    for num_tools in [0, 4, 128] {
        let recipients = (0..num_tools).map(|idx| format!("functions.do_something_useful_{idx}")).collect();
        let options = EnvelopeOptions { recipients, ..Default::default() };
        let new = mean(|| EnvelopeGrammar::new(&tokenizer, &options).unwrap());
        let header = "<|channel|>commentary to=functions.do_something_useful_0 <|constrain|>json<|message|>";
        let ids = tokenizer.encode_with_special_tokens(if num_tools == 0 {
            "<|channel|>final<|message|>"
        } else {
            header
        });
        let fresh = EnvelopeGrammar::new(&tokenizer, &options).unwrap();
        let accept = mean(|| {
            let mut grammar = fresh.clone();
            ids.iter().for_each(|&id| grammar.accept(id));
            grammar
        });
        let text = mean(|| {
            let mut grammar = fresh.clone();
            ids.iter().for_each(|&id| grammar.accept(id));
            (0..1000).for_each(|_| {
                black_box(grammar.allowed());
                grammar.accept(1000);
            });
        });
        println!(
            "envelope, {num_tools} tools: new {new:?}, header of {} tokens {accept:?}, content {} ns/token",
            ids.len(),
            text.saturating_sub(accept).as_nanos() / 1000
        );
    }
}
