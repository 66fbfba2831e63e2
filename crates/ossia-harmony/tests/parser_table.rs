//! What the parser makes of well-formed and of malformed output, row by row.
#![allow(clippy::unwrap_used)]

mod common;

use ossia_harmony::{EndReason, ParserEvent, StreamableParser, Tokenizer};

/// Messages as text: `author channel to=recipient (content type) "text" reason`, one a line; what is usual is left out.
fn parse(tokenizer: &Tokenizer, output: &str) -> String {
    let mut parser = StreamableParser::new(tokenizer.clone());
    let mut events: Vec<ParserEvent> =
        tokenizer.encode_with_special_tokens(output).into_iter().flat_map(|id| parser.push(id)).collect();
    events.extend(parser.finish());
    let (mut lines, mut head, mut text) = (Vec::new(), String::new(), String::new());
    for event in events {
        match event {
            ParserEvent::MessageStart(header) => {
                head = header.author.name.unwrap_or_else(|| header.author.role.as_str().to_owned()) + " ";
                head = head.replace("assistant ", "") + header.channel.as_str();
                head += &header.unknown_channel.map_or(String::new(), |name| format!("[{name}]"));
                head += &header.recipient.map_or(String::new(), |name| format!(" to={name}"));
                head += &header.content_type.map_or(String::new(), |name| format!(" ({name})"));
            }
            ParserEvent::Delta(delta) => text += &delta,
            ParserEvent::MessageEnd(end) => {
                let reason = match end.reason {
                    EndReason::End => "",
                    EndReason::Return => " return",
                    EndReason::Call => " call",
                    EndReason::Truncated => " truncated",
                };
                lines.push(format!("{head} {text:?}{reason}"));
                text.clear();
            }
        }
    }
    lines.join("\n")
}

fn check(rows: &[(&str, &str)]) {
    for tokenizer in [common::o200k(), common::small()] {
        for (output, expected) in rows {
            assert_eq!(parse(&tokenizer, output), *expected, "{output}");
        }
    }
}

#[test]
fn well_formed() {
    check(&[
        (
            "<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>final<|message|>4<|return|>",
            "analysis \"Think.\"\nfinal \"4\" return",
        ),
        (
            "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"a\":1}<|call|>",
            "commentary to=functions.get_weather (<|constrain|>json) \"{\\\"a\\\":1}\" call",
        ),
        (
            " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
            "commentary to=functions.get_weather (<|constrain|>json) \"{}\" call",
        ),
        (
            "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>{}<|call|>",
            "commentary to=functions.get_weather (<|constrain|>json) \"{}\" call",
        ),
        (
            "<|channel|>commentary to=functions.get_weather json<|message|>{}<|call|>",
            "commentary to=functions.get_weather (json) \"{}\" call",
        ),
        (
            "<|channel|>analysis to=browser.search code<|message|>{}<|call|>",
            "analysis to=browser.search (code) \"{}\" call",
        ),
        (
            " to=python<|channel|>analysis code<|message|>1+1<|call|>",
            "analysis to=python (code) \"1+1\" call",
        ),
        ("<|channel|>analysis<|message|>Thi", "analysis \"Thi\" truncated"),
        ("<|channel|>final<|message|>naïve 💖 中<|return|>", "final \"naïve 💖 中\" return"),
        ("<|channel|>final<|message|><|return|>", "final \"\" return"),
        ("", ""),
    ]);
}

/// harmony #38, vLLM #23567, #28303, harmony #80: headers that make other servers answer with a 500.
#[test]
fn malformed_headers() {
    check(&[
        // A recipient repeated, on either side of the channel.
        (
            " to=functions.f<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
            "commentary to=functions.f (<|constrain|>json) \"{}\" call",
        ),
        (
            "<|channel|>commentary to=functions.f to=functions.f<|message|>{}<|call|>",
            "commentary to=functions.f \"{}\" call",
        ),
        (
            "<|channel|>commentary to= functions.f<|message|>{}<|call|>",
            "commentary to=functions.f \"{}\" call",
        ),
        ("<|channel|>commentaryto=functions.f<|message|>{}<|call|>", "commentary to=functions.f \"{}\" call"),
        // Odd content types.
        (
            "<|channel|>final <|constrain|>response<|message|>Hi<|return|>",
            "final (<|constrain|>response) \"Hi\" return",
        ),
        ("<|channel|>final json<|message|>{}<|return|>", "final (json) \"{}\" return"),
        ("<|constrain|>final<|message|>Hi<|return|>", "final \"Hi\" return"),
        // Odd channels.
        (
            "<|channel|>––commentary to=functions.f<|message|>{}<|call|>",
            "commentary to=functions.f \"{}\" call",
        ),
        ("<|channel|>––analysis<|message|>Hm.<|end|>", "analysis \"Hm.\""),
        ("<|channel|>Final.<|message|>Hi<|return|>", "final \"Hi\" return"),
        ("<|channel|>finalx<|message|>Hi<|return|>", "final[finalx] \"Hi\" return"),
        ("<|channel|><|message|>Hi<|return|>", "final \"Hi\" return"),
        ("<|message|>Hi<|return|>", "final \"Hi\" return"),
        ("<|channel|>bash<|channel|>commentary<|message|>ls<|end|>", "commentary[bash] \"ls\""),
        ("<|channel|>analysis<|channel|>final<|message|>Hi<|return|>", "final \"Hi\" return"),
        ("final<|message|>Hi<|return|>", "final \"Hi\" return"),
        // Doubled and dangling starts.
        (
            "<|channel|>analysis<|message|>a<|end|><|start|><|start|>assistant<|channel|>final<|message|>b<|return|>",
            "analysis \"a\"\nfinal \"b\" return",
        ),
        ("<|start|>assistant<|channel|>final<|message|>b<|return|>", "final \"b\" return"),
        (
            "<|channel|>analysis<|start|>assistant<|start|>assistant<|channel|>final<|message|>b<|return|>",
            "final \"b\" return",
        ),
        ("assistant<|channel|>final<|message|>b<|return|>", "final \"b\" return"),
        // No <|message|>: refusals, and thoughts without any header.
        ("<|channel|>final I'm sorry, but no.<|return|>", "final \"I'm sorry, but no.\" return"),
        ("<|channel|>commentary Hello<|end|>", "commentary \"Hello\""),
        ("I'm sorry, but no.<|return|>", "final \"I'm sorry, but no.\" return"),
        (
            " The user wants it. We must refuse.<|end|><|start|>assistant<|channel|>final<|message|>No.<|return|>",
            "analysis \"The user wants it. We must refuse.\"\nfinal \"No.\" return",
        ),
        (
            "<|channel|>commentary to=functions.f {\"a\": 1}<|call|>",
            "commentary to=functions.f \"{\\\"a\\\": 1}\" call",
        ),
        (
            "<|channel|>commentary to=functions.f <|constrain|>json{\"a\": [1, 2]}<|call|>",
            "commentary to=functions.f (<|constrain|>json) \"{\\\"a\\\": [1, 2]}\" call",
        ),
        ("<|channel|>commentary to=functions.f<|call|>", "commentary to=functions.f \"\" call"),
        // Words in a header that goes on.
        ("<|channel|>final Well then<|message|>, yes<|return|>", "final \"Well then, yes\" return"),
    ]);
}

/// vLLM #22515, #22519, #50690: text or stop tokens where a new message should start.
#[test]
fn missing_starts_and_extra_stops() {
    check(&[
        (
            "<|channel|>analysis<|message|>a<|end|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
            "analysis \"a\"\ncommentary to=functions.f (<|constrain|>json) \"{}\" call",
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b<|return|>",
            "analysis \"a\"\nfinal \"b\" return",
        ),
        (
            "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|return|>",
            "analysis \"a\"\nfinal \"b\" return",
        ),
        (
            "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b<|return|>",
            "analysis \"a\"\nfinal \"b\" return",
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|message|>b<|return|>",
            "analysis \"a\"\nfinal \"b\" return",
        ),
        ("<|channel|>final<|message|>a<|return|><|return|><|end|><|endoftext|>", "final \"a\" return"),
        ("<|channel|>final<|message|>a<|endoftext|>", "final \"a\" return"),
        ("<|channel|>final<|message|>a<|end|> More.", "final \"a\"\nfinal \"More.\" truncated"),
        ("<|channel|>final<|message|>a<|end|>\n", "final \"a\""),
    ]);
}

/// vLLM #41902: an empty answer although the model said something.
#[test]
fn streams_cut_inside_a_header() {
    check(&[
        ("<|channel|>anal", ""),
        ("<|channel|>commentary to=functions.get_wea", ""),
        ("<|channel|>commentary to=functions.f <|constrain|>js", ""),
        ("<|channel|>final Sor", "final \"Sor\" truncated"),
        ("Sor", "final \"Sor\" truncated"),
        ("<|channel|>Sorry, no<|return|>", "final \"Sorry, no\" return"),
        (
            "<|channel|>commentary to=functions.f<|message|>{\"a",
            "commentary to=functions.f \"{\\\"a\" truncated",
        ),
    ]);
}

/// vLLM #26083, #24076: a call counts on whichever channel it comes.
#[test]
fn calls_on_other_channels_and_other_authors() {
    check(&[
        ("<|channel|>analysis to=functions.f<|message|>{}<|call|>", "analysis to=functions.f \"{}\" call"),
        ("<|channel|>final to=functions.f<|message|>{}<|call|>", "final to=functions.f \"{}\" call"),
        (" to=functions.f<|message|>{}<|call|>", "commentary to=functions.f \"{}\" call"),
        ("<|channel|>finalx to=functions.f<|message|>{}<|end|>", "commentary[finalx] to=functions.f \"{}\""),
        ("<|channel|>final to=user<|message|>Hi<|return|>", "final \"Hi\" return"),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>browser.search to=assistant<|channel|>commentary<|message|>{}<|end|>",
            "analysis \"a\"\nbrowser.search commentary to=assistant \"{}\"",
        ),
        ("<|end|><|start|>user<|message|>And?<|end|>", "user final \"And?\""),
        (
            "<|channel|>final<|message|>a<|constrain|>b<|message|>c<|startoftext|>d<|return|>",
            "final \"abcd\" return",
        ),
    ]);
}
