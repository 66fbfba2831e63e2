//! One prompt in full, to be read; `differential` compares thousands with the reference.
#![allow(clippy::unwrap_used)]

mod common;

use ossia_harmony::{Conversation, DeveloperContent, FunctionTool, Message, ReasoningEffort, SystemContent};
use serde_json::json;

fn conversation() -> Conversation {
    let parameters = json!({
        "type": "object",
        "properties": {
            "station": {"type": "string", "description": "Where to leave from"},
            "class": {"type": "string", "enum": ["first", "second"], "default": "second"},
            "via": {"type": "array", "items": {"type": "string"}},
            "time": {
                "description": "When to leave",
                "oneOf": [{"type": "string", "default": "now"}, {"type": "integer", "description": "minutes from now"}],
            },
            "seat": {"type": "object", "properties": {"window": {"type": "boolean", "nullable": true}}},
        },
        "required": ["station"],
    });
    let trains = FunctionTool {
        name: "find_trains".to_owned(),
        description: Some("Finds trains.\nOnly in Austria.".to_owned()),
        parameters: Some(parameters),
    };
    let clock = FunctionTool { name: "clock".to_owned(), description: None, parameters: None };
    Conversation {
        system: SystemContent {
            current_date: Some("2026-11-21".to_owned()),
            reasoning_effort: ReasoningEffort::Low,
            ..SystemContent::default()
        },
        developer: DeveloperContent {
            instructions: Some("Be brief.".to_owned()),
            tools: vec![trains, clock],
            ..DeveloperContent::default()
        },
        messages: vec![
            Message::user("Hello"),
            Message::assistant_analysis("A greeting."),
            Message::assistant_final("Hi!"),
            Message::user("Next train from <|end|> Linz?"),
            Message::assistant_analysis("Ask the tool."),
            Message::function_call("find_trains", "{\"station\":\"Linz\"}"),
            Message::tool_result("find_trains", "[\"RJ 61\"]"),
        ],
    }
}

const PROMPT: &str = r#"<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.
Knowledge cutoff: 2024-06
Current date: 2026-11-21

Reasoning: low

# Valid channels: analysis, commentary, final. Channel must be included for every message.
Calls to these tools must go to the commentary channel: 'functions'.<|end|><|start|>developer<|message|># Instructions

Be brief.

# Tools

## functions

namespace functions {

// Finds trains.
// Only in Austria.
type find_trains = (_: {
// Where to leave from
station: string,
class?: "first" | "second", // default: second
via?: string[],
// When to leave
time?:
 | string // default: "now"
 | number // minutes from now
,
seat?: {
    window?: boolean | null,
    },
}) => any;

type clock = () => any;

} // namespace functions<|end|><|start|>user<|message|>Hello<|end|><|start|>assistant<|channel|>final<|message|>Hi!<|end|><|start|>user<|message|>Next train from <|end|> Linz?<|end|><|start|>assistant<|channel|>analysis<|message|>Ask the tool.<|end|><|start|>assistant to=functions.find_trains<|channel|>commentary <|constrain|>json<|message|>{"station":"Linz"}<|call|><|start|>functions.find_trains to=assistant<|channel|>commentary<|message|>["RJ 61"]<|end|><|start|>assistant"#;

#[test]
fn a_prompt_in_full() {
    let tokenizer = common::small();
    let ids = conversation().render_prompt(&tokenizer);
    assert_eq!(tokenizer.decode(&ids), PROMPT);
    // The user's <|end|> is text: the real ones are those of the seven messages that end so.
    let end = tokenizer.special(ossia_harmony::SpecialToken::End);
    assert_eq!(ids.iter().filter(|&&id| id == end).count(), 7);
}

#[test]
fn without_tools_there_is_no_commentary_and_no_developer_message() {
    let tokenizer = common::small();
    let conversation = Conversation { messages: vec![Message::user("Hello")], ..Conversation::default() };
    let text = tokenizer.decode(&conversation.render_prompt(&tokenizer));
    assert!(
        text.contains(
            "# Valid channels: analysis, final. Channel must be included for every message.<|end|>"
        )
    );
    assert!(!text.contains("developer"));
}

#[test]
fn a_training_example_ends_in_return_and_keeps_its_thought() {
    let tokenizer = common::small();
    let mut conversation = conversation();
    conversation.messages.push(Message::assistant_final("RJ 61."));
    let text = tokenizer.decode(&conversation.render_training(&tokenizer));
    assert!(text.ends_with("<|channel|>final<|message|>RJ 61.<|return|>"));
    assert!(text.contains("Ask the tool.") && !text.contains("A greeting."));
}
