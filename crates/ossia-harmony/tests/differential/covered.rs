//! The ground that openai-harmony's own tests cover, with conversations and outputs of ours: each is rendered or read by
//! both. Not offered here, and so not covered: keeping the analysis of completed turns (`auto_drop_analysis: false`).

use ossia_harmony::{
    BuiltinTool, Channel, Conversation, DeveloperContent, EndReason, FunctionTool, Message, ParserEvent,
    ReasoningEffort, SpecialToken, StreamableParser, SystemContent, Tokenizer,
};
use serde_json::json;

use super::reference::{self, Parsed};
use super::{common, in_child_with_vocabulary};

/// Runs `check` with both vocabularies at hand.
fn with_both(test: &str, check: impl FnOnce(&Tokenizer, &openai_harmony::HarmonyEncoding)) {
    if in_child_with_vocabulary(&format!("covered::{test}")) {
        check(&common::o200k(), &reference::encoding());
    }
}

fn renders_alike(
    name: &str,
    conversation: &Conversation,
    tokenizer: &Tokenizer,
    encoding: &openai_harmony::HarmonyEncoding,
) {
    let (ours, theirs) = (conversation.render_prompt(tokenizer), reference::prompt(encoding, conversation));
    assert_eq!(tokenizer.decode(&ours), tokenizer.decode(&theirs), "{name}");
    assert_eq!(ours, theirs, "{name}");
    let training = (conversation.render_training(tokenizer), reference::training(encoding, conversation));
    assert_eq!(training.0, training.1, "{name}, training");
}

fn said(messages: Vec<Message>) -> Conversation {
    Conversation { messages, ..Conversation::default() }
}

fn weather() -> FunctionTool {
    FunctionTool {
        name: "get_weather".to_owned(),
        description: Some("The weather of a place.".to_owned()),
        parameters: Some(
            json!({"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}),
        ),
    }
}

/// Plain conversations at every effort, with and without instructions, dates and a knowledge cutoff.
#[test]
fn system_messages_of_every_effort() {
    with_both("system_messages_of_every_effort", |tokenizer, encoding| {
        for effort in [ReasoningEffort::Low, ReasoningEffort::Medium, ReasoningEffort::High] {
            for instructions in [None, Some("Answer in rhymes.".to_owned())] {
                for date in [None, Some("2026-01-31".to_owned())] {
                    let system = SystemContent {
                        reasoning_effort: effort,
                        knowledge_cutoff: date.as_ref().map(|_| "2024-06".to_owned()),
                        current_date: date,
                        ..SystemContent::default()
                    };
                    let developer = DeveloperContent {
                        instructions: instructions.clone(),
                        ..DeveloperContent::default()
                    };
                    let messages = vec![Message::user("How many legs has a spider?")];
                    renders_alike(
                        "effort",
                        &Conversation { system, developer, messages },
                        tokenizer,
                        encoding,
                    );
                }
            }
        }
    });
}

#[test]
fn tools_of_every_kind_and_none() {
    with_both("tools_of_every_kind_and_none", |tokenizer, encoding| {
        let parameters = json!({"type": "object", "properties": {
            "place": {"type": "string", "description": "A town, e.g. Linz", "title": "PLACE"},
            "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "hours": {"type": "array", "items": {"type": "integer"}, "default": [8, 20]},
            "names": {"type": "array", "items": {"type": "string"}, "description": "Who asks", "examples": ["Ada", "Max"]},
            "when": {"oneOf": [{"type": "string", "default": "today"}, {"type": "number", "description": "in days"}]},
            "exact": {"type": "boolean", "nullable": true},
            "level": {"type": "number", "description": "How much", "default": 0.5},
            "nested": {"type": "object", "properties": {"deep": {"type": "string"}}},
            "any": {}}, "required": ["place"]});
        let wide = FunctionTool {
            name: "forecast".to_owned(),
            description: Some("Two\nlines.".to_owned()),
            parameters: Some(parameters),
        };
        let plain = FunctionTool {
            name: "where_am_i".to_owned(),
            description: Some("The place.".to_owned()),
            parameters: None,
        };
        let builtins: [&[BuiltinTool]; 4] = [
            &[],
            &[BuiltinTool::Browser],
            &[BuiltinTool::Python],
            &[BuiltinTool::Browser, BuiltinTool::Python],
        ];
        for builtin_tools in builtins {
            for tools in [vec![], vec![weather()], vec![plain.clone(), wide.clone(), weather()]] {
                let system =
                    SystemContent { builtin_tools: builtin_tools.to_vec(), ..SystemContent::default() };
                let instructions = Some("Use the tools.".to_owned()).filter(|_| tools.len() != 1);
                let developer = DeveloperContent { instructions, tools, ..DeveloperContent::default() };
                let messages = vec![Message::user("Is it raining?")];
                renders_alike("tools", &Conversation { system, developer, messages }, tokenizer, encoding);
            }
        }
    });
}

/// Dropped after a final message, kept inside the current tool loop, kept before the last final one in training.
#[test]
fn chain_of_thought_is_dropped_and_kept() {
    with_both("chain_of_thought_is_dropped_and_kept", |tokenizer, encoding| {
        let question = || Message::user("7 times 8?");
        let thought = || Message::assistant_analysis("56, says the table.");
        let answer = || Message::assistant_final("56.");
        let call = || Message::function_call("get_weather", "{\"place\": \"Linz\"}");
        let bare_result =
            || Message { channel: None, recipient: None, ..Message::tool_result("get_weather", "rain") };
        for messages in [
            vec![question(), thought(), answer(), question()],
            vec![question(), thought(), call(), bare_result()],
            vec![question(), thought(), call(), Message::tool_result("get_weather", "rain")],
            vec![question(), thought(), answer(), question(), thought(), answer()],
            vec![question(), thought(), call(), bare_result(), answer(), question()],
            vec![question()],
            vec![],
        ] {
            renders_alike("thought", &said(messages), tokenizer, encoding);
        }
    });
}

/// One turn may hold several calls; each ends in `<|call|>` when it comes back, and the results follow.
#[test]
fn several_calls_with_several_results() {
    with_both("several_calls_with_several_results", |tokenizer, encoding| {
        let call = |place: &str| Message::function_call("get_weather", json!({"place": place}).to_string());
        let result = |text: &str| Message::tool_result("get_weather", text);
        let loop_of = |calls: Vec<Message>, results: Vec<Message>| {
            let begin = [
                Message::user("Linz, Graz and Wels?"),
                Message::assistant_analysis("Three calls."),
                Message::assistant_preamble("I look it up."),
            ];
            Conversation {
                developer: DeveloperContent { tools: vec![weather()], ..DeveloperContent::default() },
                messages: begin.into_iter().chain(calls).chain(results).collect(),
                ..Conversation::default()
            }
        };
        let calls =
            vec![call("Linz"), call("Graz"), Message::builtin_call("browser.search", "{\"q\":\"Wels\"}")];
        let results = vec![result("rain"), result("sun"), Message::builtin_result("browser.search", "fog")];
        renders_alike("all answered", &loop_of(calls.clone(), results.clone()), tokenizer, encoding);
        renders_alike("one answered", &loop_of(calls.clone(), results[..1].to_vec()), tokenizer, encoding);
        let mut answered = loop_of(calls, results);
        answered.messages.push(Message::assistant_final("Rain, sun and fog."));
        renders_alike("finished", &answered, tokenizer, encoding);
    });
}

/// Headers in both orders, with the constraint beside the recipient or apart, ended by any token.
#[test]
fn calls_in_every_spelling() {
    with_both("calls_in_every_spelling", |tokenizer, encoding| {
        let arguments = "{\"latitude\":47.81,\"longitude\":13.03}";
        for header in [
            "<|channel|>commentary to=functions.get_weather <|constrain|>json",
            "<|channel|>commentary to=functions.get_weather<|constrain|>json",
            "<|channel|>commentary to=functions.get_weather json",
            "<|channel|>commentary to=functions.get_weather",
            " to=functions.get_weather<|channel|>commentary <|constrain|>json",
            " to=functions.get_weather<|channel|>commentary<|constrain|>json",
            " to=functions.get_weather<|channel|>commentary json",
            "<|channel|>analysis to=browser.search code",
        ] {
            for end in ["<|call|>", "<|end|>", "<|return|>", ""] {
                let output = format!("{header}<|message|>{arguments}{end}");
                let ids = tokenizer.encode_with_special_tokens(&output);
                assert_eq!(
                    reference::parse_ours(tokenizer, &ids),
                    reference::parse(encoding, &ids),
                    "{output}"
                );
            }
        }
    });
}

#[test]
fn whole_turns_and_results_of_tools() {
    with_both("whole_turns_and_results_of_tools", |tokenizer, encoding| {
        for output in [
            "<|channel|>analysis<|message|>Simple: a spider has eight.<|end|><|start|>assistant<|channel|>final<|message|>Eight.<|return|>",
            "<|channel|>analysis<|message|>I need the tool.<|end|><|start|>assistant<|channel|>commentary to=get_weather<|message|>{\"place\":\"Linz\"}<|call|>",
            "<|channel|>analysis<|message|>Let me search.<|end|><|start|>assistant<|channel|>commentary to=browser.search code<|message|>{\"query\": \"spiders\", \"topn\": 3}<|call|><|start|>browser.search to=assistant<|channel|>commentary<|message|>{\"result\": \"eight\"}<|end|>",
            "<|channel|>commentary<|message|>**Plan**: two steps.<|end|><|start|>assistant<|channel|>commentary to=functions.a <|constrain|>json<|message|>{}<|call|>",
        ] {
            let ids = tokenizer.encode_with_special_tokens(output);
            assert_eq!(tokenizer.decode(&ids), output);
            assert_eq!(reference::parse_ours(tokenizer, &ids), reference::parse(encoding, &ids), "{output}");
        }
    });
}

/// Where `<|message|>` is missing the reference has a lenient mode. Texts and recipients are the same; a message without
/// a channel is thought if another follows, and the answer if none does.
#[test]
fn headers_without_a_message_token() {
    with_both("headers_without_a_message_token", |tokenizer, encoding| {
        let rest = "<|start|>assistant<|channel|>final<|message|>No, sorry.<|return|>";
        for (output, channels) in [
            (format!("I cannot do that<|end|>{rest}"), "analysis final"),
            (format!("<|channel|>analysis I cannot do that<|end|>{rest}"), "analysis final"),
            ("<|channel|>commentary Hello there<|end|>".to_owned(), "commentary"),
            (
                "... So, the tool.<|end|><|start|>assistant to=functions.f<|channel|>commentary json<|message|>{\"a\": 1}<|call|>".to_owned(),
                "analysis commentary",
            ),
        ] {
            let ids = tokenizer.encode_with_special_tokens(&output);
            let (ours, theirs) = (reference::parse_ours(tokenizer, &ids), reference::parse_lenient(encoding, &ids));
            let parts = |(_, recipient, kind, text): &Parsed| (recipient.clone(), kind.clone(), text.clone());
            assert_eq!(ours.iter().map(parts).collect::<Vec<_>>(), theirs.iter().map(parts).collect::<Vec<_>>(), "{output}");
            let found: Vec<_> = ours.iter().filter_map(|message| message.0.as_deref()).collect();
            assert_eq!(found.join(" "), channels, "{output}");
        }
    });
}

/// Half characters become U+FFFD once they cannot become whole, and never reach the next message.
#[test]
fn characters_cut_by_tokens() {
    with_both("characters_cut_by_tokens", |tokenizer, encoding| {
        const HALF: u32 = 9552; // a space and the first two bytes of an emoji
        assert_eq!(tokenizer.token_bytes(HALF), b" \xf0\x9f");
        let text = |text: &str| tokenizer.encode_ordinary(text);
        let tricky = "Grüß Γειά Привет שלום مرحبا नमस्ते こんにちは 안녕 你好 nai\u{308}ve 👋🏾👨‍👩‍👧‍👦🇦🇹";
        let contents = [
            vec![HALF, HALF],
            [vec![HALF], text("XY")].concat(),
            [vec![HALF, HALF], text("worked")].concat(),
            [vec![HALF], text(" interesting story")].concat(),
            vec![132_990, HALF],
            text("💖"),
            text(tricky),
        ];
        let begin = tokenizer.encode_with_special_tokens("<|channel|>final<|message|>");
        let next = tokenizer
            .encode_with_special_tokens("<|end|><|start|>assistant<|channel|>final<|message|>Hi<|end|>");
        for content in contents {
            let cut = [&begin[..], &content].concat();
            let whole = [&cut[..], &next].concat();
            for ids in [cut, whole] {
                assert_eq!(
                    reference::parse_ours(tokenizer, &ids),
                    reference::parse(encoding, &ids),
                    "{content:?}"
                );
            }
        }
        assert_eq!(reference::parse_ours(tokenizer, &[&begin[..], &text(tricky)].concat())[0].3, tricky);
    });
}

/// No delta holds half a character, and there is none while a character is incomplete.
#[test]
fn a_character_of_several_tokens_is_waited_for() {
    let tokenizer = common::o200k();
    let mut parser = StreamableParser::new(tokenizer.clone());
    tokenizer
        .encode_with_special_tokens("<|channel|>final<|message|>")
        .iter()
        .for_each(|&id| drop(parser.push(id)));
    let heart = tokenizer.encode_ordinary("💖");
    let (last, first) = heart.split_last().unwrap();
    assert!(!first.is_empty());
    assert!(first.iter().all(|&id| parser.push(id).is_empty()));
    assert_eq!(parser.push(*last), [ParserEvent::Delta("💖".to_owned())]);
}

/// An id that no vocabulary has is no text; the reference writes U+FFFD for it.
#[test]
fn tokens_that_do_not_exist_are_survived() {
    let tokenizer = common::o200k();
    let mut ids = tokenizer.encode_with_special_tokens("<|channel|>analysis<|message|>Fine.");
    ids.extend([u32::MAX, 99_999_999, 201_087]);
    let mut parser = StreamableParser::new(tokenizer.clone());
    let mut events: Vec<_> = ids.iter().flat_map(|&id| parser.push(id)).collect();
    events.extend(parser.finish());
    let text = events
        .iter()
        .filter_map(|event| if let ParserEvent::Delta(text) = event { Some(&**text) } else { None });
    assert_eq!(text.collect::<String>(), "Fine.");
    assert!(
        matches!(events.last(), Some(ParserEvent::MessageEnd(end)) if end.reason == EndReason::Truncated)
    );
}

/// Ids, names and texts of special tokens, reserved ones included. The checkpoints call the last one
/// `<|endofprompt|>`, the crate calls it reserved.
#[test]
fn special_and_reserved_tokens_agree() {
    with_both("special_and_reserved_tokens_agree", |tokenizer, encoding| {
        for id in tokenizer.control_token_ids().iter().copied().filter(|&id| id != 200_018) {
            assert_eq!(tokenizer.decode(&[id]), encoding.tokenizer().decode_utf8([id]).unwrap());
            assert!(encoding.tokenizer().is_special_token(id));
        }
        assert!(!encoding.tokenizer().is_special_token(24_912) && tokenizer.is_special(24_912).is_none());
        assert_eq!(tokenizer.encode_ordinary("hello world"), [24_912, 2_375]);
        let start = [tokenizer.special(SpecialToken::Start)];
        assert_eq!((tokenizer.encode_with_special_tokens("<|start|>"), start[0]), (start.to_vec(), 200_006));
        assert_eq!(tokenizer.encode_ordinary("<|start|>"), [27, 91, 5_236, 91, 29]);
    });
}

/// A message rendered alone stands in the conversation as it is, whatever follows.
#[test]
fn a_prompt_begins_with_what_was_said() {
    let tokenizer = common::o200k();
    let conversation = said(vec![
        Message::user("Hello"),
        Message { channel: Some(Channel::Final), ..Message::assistant_final("Hi") },
    ]);
    let shorter = said(conversation.messages[..1].to_vec());
    let (prompt, begun) = (conversation.render_prompt(&tokenizer), shorter.render_training(&tokenizer));
    assert_eq!(prompt[..begun.len()], begun);
}
