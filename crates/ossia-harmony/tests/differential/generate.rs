//! Random conversations, texts and JSON Schemas: wide rather than likely.

use ossia_harmony::{
    Author, BuiltinTool, Channel, Conversation, DeveloperContent, FunctionTool, Message, ReasoningEffort,
    ResponseFormat, Role, SystemContent, Tokenizer, ToolNamespace,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};

const SNIPPETS: &[&str] = &[
    "the",
    " weather",
    " in",
    " Paris",
    "What",
    " is",
    " 2 + 2?",
    "don't",
    " WE'LL",
    "HTTPServer",
    "x=1;\n",
    "\n\n",
    " ",
    "   ",
    "\t",
    "\r\n",
    "12345678",
    " 3.14",
    "naïve",
    " café",
    "中文",
    "日本語の",
    " Привет",
    "مرحبا",
    "हिन्दी",
    "한국어",
    "💖",
    "👩‍👩‍👧",
    "🇪🇺",
    "e\u{301}",
    "\u{200b}",
    "\u{a0}",
    "\u{3000}",
    "ﬁ",
    "ǅ",
    "ſ",
    "'ſ",
    "<|start|>",
    "<|end|>",
    "<|message|>",
    "<|channel|>",
    "<|constrain|>json",
    "<|call|>",
    "<|return|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|",
    "|>",
    "<|reserved_200000|>",
    "<|endofprompt|",
    "{\"a\": 1}",
    "// comment",
    "`code`",
    "https://example.org/a?b=c",
    "[1, 2]",
    "!!!",
    "...",
    "/\n",
    " /*",
    "_",
    "functions.f",
    " to=functions.f",
    "assistant",
    "analysis",
    "final",
    "null",
    "\u{0}",
    "\u{7f}",
    "\u{feff}",
    "\u{10ffff}",
];

pub(crate) fn text(rng: &mut StdRng, max_snippets: usize) -> String {
    let len = rng.random_range(0..=max_snippets);
    (0..len)
        .map(|_| match rng.random_range(0..20) {
            0 => char::from_u32(rng.random_range(0..0x3_0000)).unwrap_or('?').to_string(),
            1 => SNIPPETS.choose(rng).unwrap().repeat(rng.random_range(1..6)),
            _ => (*SNIPPETS.choose(rng).unwrap()).to_owned(),
        })
        .collect()
}

fn name(rng: &mut StdRng) -> String {
    let words =
        ["get", "weather", "list", "fileSearch", "v2", "a", "Größe", "set_timer", "web-browsing", "X"];
    let len = rng.random_range(1..4);
    (0..len).map(|_| *words.choose(rng).unwrap()).collect::<Vec<_>>().join("_")
}

fn maybe<T>(rng: &mut StdRng, chance: f64, make: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    rng.random_bool(chance).then(|| make(rng))
}

pub(crate) fn conversation(rng: &mut StdRng) -> Conversation {
    let developer = developer(rng);
    let turns = rng.random_range(0..4);
    let mut messages = Vec::new();
    for turn in 0..turns {
        push_turn(rng, &developer, &mut messages, turn + 1 == turns);
    }
    Conversation { system: system(rng), developer, messages }
}

fn system(rng: &mut StdRng) -> SystemContent {
    let mut builtin_tools = vec![BuiltinTool::Browser, BuiltinTool::Python];
    builtin_tools.retain(|_| rng.random_bool(0.2));
    if rng.random_bool(0.5) {
        builtin_tools.reverse();
    }
    let default = SystemContent::default();
    SystemContent {
        model_identity: if rng.random_bool(0.8) {
            default.model_identity
        } else {
            maybe(rng, 0.5, |rng| text(rng, 8))
        },
        knowledge_cutoff: maybe(rng, 0.8, |_| "2024-06".to_owned()),
        current_date: maybe(rng, 0.8, |_| "2025-06-28".to_owned()),
        reasoning_effort: *[ReasoningEffort::Low, ReasoningEffort::Medium, ReasoningEffort::High]
            .choose(rng)
            .unwrap(),
        builtin_tools,
    }
}

fn developer(rng: &mut StdRng) -> DeveloperContent {
    let num_tools = if rng.random_bool(0.5) { rng.random_range(1..4) } else { 0 };
    let tools: Vec<_> = (0..num_tools).map(|_| tool(rng)).collect();
    let namespaces = maybe(rng, 0.1, |rng| ToolNamespace {
        name: (*["aaa", "mcp", "zoo"].choose(rng).unwrap()).to_owned(),
        description: maybe(rng, 0.5, |rng| text(rng, 10)),
        tools: vec![tool(rng), tool(rng)],
    });
    let namespaces: Vec<_> = namespaces.into_iter().collect();
    let mut instructions = maybe(rng, 0.6, |rng| text(rng, 30));
    // The reference has no response formats; it can only follow when nothing stands between them and the instructions.
    let response_format = if tools.is_empty() && namespaces.is_empty() {
        maybe(rng, 0.3, |rng| ResponseFormat {
            name: name(rng),
            description: maybe(rng, 0.5, |rng| text(rng, 10)),
            schema: schema(rng, 2),
        })
    } else {
        None
    };
    if response_format.is_some() {
        instructions.get_or_insert_default();
    }
    DeveloperContent { instructions, tools, namespaces, response_format }
}

fn push_turn(rng: &mut StdRng, developer: &DeveloperContent, messages: &mut Vec<Message>, is_last: bool) {
    messages.push(match rng.random_range(0..10) {
        0 => Message::developer(text(rng, 20)),
        1 => Message {
            author: Author { role: Role::User, name: Some(name(rng)) },
            ..Message::user(text(rng, 30))
        },
        _ => Message::user(text(rng, 30)),
    });
    for _ in 0..rng.random_range(0..3) {
        if rng.random_bool(0.8) {
            messages.push(Message::assistant_analysis(text(rng, 20)));
        }
        if rng.random_bool(0.2) {
            messages.push(Message::assistant_preamble(text(rng, 10)));
        }
        push_calls(rng, developer, messages);
    }
    if is_last && rng.random_bool(0.5) {
        return;
    }
    if rng.random_bool(0.7) {
        messages.push(Message::assistant_analysis(text(rng, 20)));
    }
    if rng.random_bool(0.9) {
        messages.push(Message::assistant_final(text(rng, 30)));
    }
}

/// Well-formed output of the model, as it follows `<|start|>assistant`; headers in both orders.
pub(crate) fn assistant_output(rng: &mut StdRng, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut output = Vec::new();
    let num_messages = rng.random_range(1..5);
    for idx in 0..num_messages {
        let channel = ["analysis", "commentary", "final"].choose(rng).unwrap();
        let recipient =
            ["functions.get_weather", "functions.Größe-2", "browser.search", "python"].choose(rng).unwrap();
        let content_type =
            ["", " json", " code", " <|constrain|>json", "<|constrain|>json"].choose(rng).unwrap();
        let header = match rng.random_range(0..3) {
            0 => format!("<|channel|>{channel}"),
            1 => format!("<|channel|>{channel} to={recipient}{content_type}"),
            _ => format!(" to={recipient}<|channel|>{channel}{content_type}"),
        };
        output.extend(tokenizer.encode_with_special_tokens(&format!("{header}<|message|>")));
        output.extend(tokenizer.encode_ordinary(&text(rng, 20)));
        let end = ["<|end|>", "<|call|>", "<|return|>"].choose(rng).unwrap();
        output.extend(tokenizer.encode_with_special_tokens(end));
        if idx + 1 < num_messages {
            output.extend(tokenizer.encode_with_special_tokens("<|start|>assistant"));
        }
    }
    output
}

/// One call or several, then their results; the last results may be missing.
fn push_calls(rng: &mut StdRng, developer: &DeveloperContent, messages: &mut Vec<Message>) {
    if rng.random_bool(0.2) {
        messages.push(Message::builtin_call("browser.search", text(rng, 10)));
        messages.push(Message::builtin_result("browser.search", text(rng, 10)));
        return;
    }
    let num_calls = if rng.random_bool(0.4) { rng.random_range(2..4) } else { 1 };
    let (calls, mut results): (Vec<_>, Vec<_>) = (0..num_calls).map(|_| call(rng, developer)).unzip();
    messages.extend(calls);
    if rng.random_bool(0.1) {
        results.pop();
    }
    messages.extend(results);
}

/// A call and its result.
fn call(rng: &mut StdRng, developer: &DeveloperContent) -> (Message, Message) {
    let name = developer.tools.choose(rng).map_or_else(|| name(rng), |tool| tool.name.clone());
    let mut call = Message::function_call(&name, json!({"q": text(rng, 5)}).to_string());
    match rng.random_range(0..8) {
        0 => call.content_type = None,
        1 => call.content_type = Some("json".to_owned()),
        2 => call.content_type = Some("<|constrain|>".to_owned()),
        3 => call.channel = *[None, Some(Channel::Analysis), Some(Channel::Final)].choose(rng).unwrap(),
        _ => {}
    }
    // A call that claims to be final would count as the end of a turn in one reading and not in the other.
    if call.channel == Some(Channel::Final) {
        call.channel = None;
    }
    let mut result = Message::tool_result(&name, text(rng, 20));
    if rng.random_bool(0.2) {
        (result.channel, result.recipient) = (None, None);
    }
    (call, result)
}

fn tool(rng: &mut StdRng) -> FunctionTool {
    FunctionTool {
        name: name(rng),
        description: maybe(rng, 0.8, |rng| text(rng, 12)),
        parameters: maybe(rng, 0.8, |rng| if rng.random_bool(0.8) { object(rng, 3) } else { schema(rng, 3) }),
    }
}

/// Any value where a schema belongs: mostly a schema.
fn schema(rng: &mut StdRng, depth: usize) -> Value {
    let mut schema = match rng.random_range(0..14) {
        0..3 => json!({"type": "string"}),
        3 => json!({"type": "string", "enum": enum_values(rng)}),
        4 => json!({"type": "number", "minimum": 0}),
        5 => json!({"type": "integer"}),
        6 => json!({"type": "boolean"}),
        7 => json!({"type": *["null", "any", "", "date"].choose(rng).unwrap()}),
        8 => json!({"type": type_list(rng)}),
        9 if depth > 0 => json!({"type": "array", "items": schema(rng, depth - 1)}),
        9 => json!({"type": "array"}),
        10 | 11 if depth > 0 => object(rng, depth - 1),
        12 if depth > 0 => one_of(rng, depth - 1),
        13 if depth > 0 => json!({"anyOf": [schema(rng, depth - 1), {"type": "null"}]}),
        _ => json!({"$ref": "#/$defs/a"}),
    };
    if rng.random_bool(0.03) {
        return [json!(true), json!("string"), json!(3), json!(null)].choose(rng).unwrap().clone();
    }
    annotate(rng, schema.as_object_mut().unwrap());
    schema
}

fn type_list(rng: &mut StdRng) -> Value {
    let lists = [
        json!(["string", "null"]),
        json!(["integer", "number"]),
        json!(["number", "string"]),
        json!([]),
        json!([1]),
        json!([null, "object"]),
    ];
    lists.choose(rng).unwrap().clone()
}

fn enum_values(rng: &mut StdRng) -> Value {
    let lists = [
        json!(["a", "b"]),
        json!(["celsius", "fahr\"enheit", "中"]),
        json!([]),
        json!([1, 2]),
        json!([1, "x"]),
        json!("a"),
    ];
    lists.choose(rng).unwrap().clone()
}

fn one_of(rng: &mut StdRng, depth: usize) -> Value {
    let variants: Vec<Value> = (0..rng.random_range(0..4)).map(|_| schema(rng, depth)).collect();
    if rng.random_bool(0.05) {
        json!({"oneOf": {"not": "a list"}, "type": "string"})
    } else {
        json!({ "oneOf": variants })
    }
}

fn object(rng: &mut StdRng, depth: usize) -> Value {
    let mut properties = Map::new();
    for _ in 0..rng.random_range(0..5) {
        properties.insert(name(rng), schema(rng, depth));
    }
    let mut required: Vec<Value> =
        properties.keys().filter(|_| rng.random_bool(0.5)).map(|key| json!(key)).collect();
    if rng.random_bool(0.1) {
        required.push(json!(7));
    }
    let mut object = json!({"type": "object", "properties": properties, "additionalProperties": false});
    match rng.random_range(0..10) {
        0 => {}
        1 => object["required"] = json!(true),
        2 => object["properties"] = json!(["not", "a", "map"]),
        3 => object = json!({"type": "object"}),
        _ => object["required"] = Value::Array(required),
    }
    annotate(rng, object.as_object_mut().unwrap());
    object
}

/// Adds descriptions, defaults and so on, now and then of the wrong type.
fn annotate(rng: &mut StdRng, schema: &mut Map<String, Value>) {
    let descriptions = ["the same", "a city, e.g. Paris", "two\nlines", "null", ""];
    if rng.random_bool(0.3) {
        schema.insert("description".to_owned(), json!(descriptions.choose(rng).unwrap()));
    }
    if rng.random_bool(0.2) {
        let defaults = [
            json!("x"),
            json!("a \"quote\""),
            json!(-1),
            json!(2.50),
            json!(null),
            json!({"a": [1, "b"]}),
            json!(true),
        ];
        schema.insert("default".to_owned(), defaults.choose(rng).unwrap().clone());
    }
    if rng.random_bool(0.15) {
        let values = [json!(true), json!(true), json!(false), json!("yes")];
        schema.insert("nullable".to_owned(), values.choose(rng).unwrap().clone());
    }
    if rng.random_bool(0.1) {
        schema.insert("title".to_owned(), if rng.random_bool(0.9) { json!("A Title") } else { json!(1) });
    }
    if rng.random_bool(0.1) {
        let examples = [json!(["hello", "wor\"ld"]), json!([]), json!([1, "a", null]), json!("x")];
        schema.insert("examples".to_owned(), examples.choose(rng).unwrap().clone());
    }
    if rng.random_bool(0.02) {
        schema.insert("description".to_owned(), json!(5));
    }
}
