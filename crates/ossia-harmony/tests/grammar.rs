//! What can be sampled under the grammar of a turn is a well-formed turn, and its content is of the language asked for.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/schema.rs"]
mod schema;

use std::sync::LazyLock;

use ossia_harmony::{
    Allowed, Channel, EndReason, EnvelopeGrammar, EnvelopeOptions, GrammarCompiler, GrammarScope,
    GrammarSource, HarmonyError, Header, ParserEvent, Scope, SpecialToken, StreamableParser, Tokenizer,
    TurnGrammar,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

/// A tokenizer and its compiler, made once.
struct Kit {
    tokenizer: Tokenizer,
    compiler: GrammarCompiler,
}

impl Kit {
    fn new(tokenizer: Tokenizer) -> Self {
        Self { compiler: GrammarCompiler::new(&tokenizer).unwrap(), tokenizer }
    }
}

static O200K: LazyLock<Kit> = LazyLock::new(|| Kit::new(common::o200k()));
static SMALL: LazyLock<Kit> = LazyLock::new(|| Kit::new(common::small()));

fn exact(schema: &Value) -> GrammarSource {
    GrammarSource::JsonSchema { schema: schema.to_string(), lenient: false }
}

fn turn(kit: &Kit, options: &EnvelopeOptions, rules: &[(GrammarScope, GrammarSource)]) -> TurnGrammar {
    let envelope = EnvelopeGrammar::new(&kit.tokenizer, options).unwrap();
    let compile = |source| kit.compiler.compile(source).unwrap();
    let contents = rules.iter().map(|(scope, source)| (scope.clone(), compile(source)));
    TurnGrammar::new(envelope, contents.collect())
}

fn is_allowed(allowed: Allowed<'_>, id: u32) -> bool {
    match allowed {
        Allowed::All => true,
        Allowed::Except(ids) => ids.binary_search(&id).is_err(),
        Allowed::Only(ids) => ids.binary_search(&id).is_ok(),
        Allowed::Bitmask(words) => words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1),
    }
}

/// A random token of those that are allowed, often one that ends something, or the walk would be long.
fn sample(rng: &mut StdRng, tokenizer: &Tokenizer, allowed: Allowed<'_>) -> u32 {
    let control = tokenizer.control_token_ids();
    let closers = tokenizer.encode_ordinary("\"\n}\n]");
    match allowed {
        Allowed::Only(ids) => *ids.choose(rng).unwrap(),
        Allowed::Bitmask(_) if rng.random_bool(0.2) && closers.iter().any(|&id| is_allowed(allowed, id)) => {
            *closers.iter().find(|&&id| is_allowed(allowed, id)).expect("one is allowed")
        }
        Allowed::Bitmask(_) => {
            let all: Vec<u32> =
                (0..tokenizer.vocab_size() as u32).filter(|&id| is_allowed(allowed, id)).collect();
            *all.choose(rng).expect("something is allowed")
        }
        Allowed::All | Allowed::Except(_) if rng.random_bool(0.1) => {
            *control.iter().find(|&&id| is_allowed(allowed, id)).expect("free text can end")
        }
        Allowed::All | Allowed::Except(_) => loop {
            let id = rng.random_range(0..tokenizer.vocab_size() as u32);
            if is_allowed(allowed, id) {
                return id;
            }
        },
    }
}

/// The messages of a turn sampled at random: header, text, end, tokens of the text.
type Turn = Vec<(Header, String, EndReason, usize)>;

fn walk(rng: &mut StdRng, tokenizer: &Tokenizer, grammar: &mut TurnGrammar) -> Turn {
    let mut parser = StreamableParser::new(tokenizer.clone());
    let mut turn = Turn::new();
    while grammar.scope() != Scope::Done {
        let token = sample(rng, tokenizer, grammar.allowed());
        grammar.accept(token);
        assert_ne!(grammar.scope(), Scope::Unknown, "an allowed token is accepted");
        for event in parser.push(token) {
            match event {
                ParserEvent::MessageStart(header) => {
                    turn.push((header, String::new(), EndReason::Truncated, 0))
                }
                ParserEvent::Delta(text) => turn.last_mut().unwrap().1.push_str(&text),
                ParserEvent::MessageEnd(end) => {
                    let message = turn.last_mut().unwrap();
                    (message.2, message.3) = (end.reason, end.num_content_tokens);
                }
            }
        }
    }
    assert_eq!(grammar.failure(), None);
    turn
}

/// Schemas whose texts have a bounded length, each with another part of the language.
fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "properties": {
            "city": {"type": "string", "maxLength": 12},
            "days": {"type": "integer", "minimum": 1, "maximum": 14},
            "unit": {"enum": ["celsius", "fahrenheit", null]},
        }, "required": ["city", "unit"], "additionalProperties": false}),
        json!({"type": "object", "properties": {
            "items": {"type": "array", "minItems": 1, "maxItems": 4, "items": {"$ref": "#/$defs/item"}},
            "total": {"type": "number", "minimum": 0, "maximum": 1000},
        }, "required": ["items", "total"], "additionalProperties": false,
        "$defs": {"item": {"type": "object", "properties": {
            "name": {"type": "string", "minLength": 2, "maxLength": 8},
            "fresh": {"type": "boolean"},
        }, "required": ["name", "fresh"], "additionalProperties": false}}}),
        json!({"type": "object", "properties": {
            "kind": {"const": "größe"},
            "value": {"anyOf": [{"type": "null"}, {"type": "string", "maxLength": 3},
                {"type": "array", "maxItems": 2, "items": {"type": ["integer", "boolean"], "minimum": -9, "maximum": 9}}]},
        }, "required": ["kind", "value"], "additionalProperties": false}),
        json!({"type": "object", "properties": {}, "additionalProperties": false}),
        json!({"type": "array", "items": {"enum": ["a\"b", "\\", "\n", "🦀"]}, "maxItems": 3}),
    ]
}

/// Numbers beyond f64 are legal JSON, and beyond serde_json.
fn is_json_object(text: &str) -> bool {
    match serde_json::from_str::<Value>(text) {
        Ok(value) => value.is_object(),
        Err(error) => error.to_string().starts_with("number out of range"),
    }
}

#[test]
fn random_turns_are_well_formed_and_valid() {
    let mut rng = StdRng::seed_from_u64(7);
    let schemas = schemas();
    let (mut num_calls, mut num_answers) = (0, 0);
    for (kit, walks) in [(&*O200K, 60), (&*SMALL, 140)] {
        for _ in 0..walks {
            let (answer, call) = (schemas.choose(&mut rng).unwrap(), schemas.choose(&mut rng).unwrap());
            let rules = [
                (GrammarScope::Final, exact(answer)),
                (GrammarScope::Call("functions.f".to_owned()), exact(call)),
                (GrammarScope::Call("functions.any".to_owned()), GrammarSource::JsonObject),
            ];
            let mut recipients = ["functions.f", "functions.any", "crm.free"].map(str::to_owned).to_vec();
            let allow_final = rng.random_bool(0.5);
            recipients.retain(|_| !allow_final);
            let parallel_calls = rng.random_bool(0.5);
            let options =
                EnvelopeOptions { recipients, allow_final, parallel_calls, ..EnvelopeOptions::default() };
            for (header, text, reason, _) in walk(&mut rng, &kit.tokenizer, &mut turn(kit, &options, &rules))
            {
                let value = || {
                    serde_json::from_str::<Value>(&text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
                };
                match (header.recipient.as_deref(), header.channel) {
                    (Some("functions.f"), _) => assert!(schema::is_valid(call, &value()), "{call}: {text}"),
                    (Some("functions.any"), _) => assert!(is_json_object(&text), "{text}"),
                    (None, Channel::Final) => assert!(schema::is_valid(answer, &value()), "{answer}: {text}"),
                    _ => {}
                }
                num_calls += usize::from(reason == EndReason::Call);
                num_answers += usize::from(reason == EndReason::Return);
            }
        }
    }
    assert!(num_calls > 50 && num_answers > 30, "{num_calls} calls, {num_answers} answers");
}

#[test]
fn the_end_is_allowed_exactly_when_the_text_is_complete() {
    let mut rng = StdRng::seed_from_u64(8);
    let tokenizer = &SMALL.tokenizer;
    let end = tokenizer.special(SpecialToken::Return);
    let mut num_ends = 0;
    for _ in 0..60 {
        let wanted = schemas().choose(&mut rng).unwrap().clone();
        let mut grammar = turn(&SMALL, &EnvelopeOptions::default(), &[(GrammarScope::Final, exact(&wanted))]);
        for id in tokenizer.encode_with_special_tokens("<|channel|>final<|message|>") {
            grammar.accept(id);
        }
        let mut bytes = Vec::new();
        while grammar.scope() == Scope::Final {
            let allowed = grammar.allowed();
            let complete =
                serde_json::from_slice(&bytes).is_ok_and(|value| schema::is_valid(&wanted, &value));
            // White space after the last brace is legal JSON, yet the grammar has no use for it.
            assert!(
                is_allowed(allowed, end) == complete,
                "{:?} of {wanted}",
                String::from_utf8_lossy(&bytes)
            );
            num_ends += usize::from(complete);
            let others = tokenizer.control_token_ids().iter().filter(|&&id| id != end);
            assert!(others.into_iter().all(|&id| !is_allowed(allowed, id)), "no other special token");
            let token = sample(&mut rng, tokenizer, allowed);
            bytes.extend_from_slice(tokenizer.token_bytes(token));
            grammar.accept(token);
        }
    }
    assert!(num_ends >= 60);
}

/// A sum of the Lark grammar below: numbers of at most two digits, plus signs between them.
fn is_sum(text: &str) -> bool {
    let is_number = |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = text.split('+').collect();
    parts.len() <= 4 && parts.into_iter().all(is_number)
}

fn is_code(text: &str) -> bool {
    let (letters, digits) = text.split_once('-').unwrap_or((text, ""));
    let is_letters = (3..=8).contains(&letters.len()) && letters.bytes().all(|b| (b'a'..=b'f').contains(&b));
    is_letters && (digits.is_empty() || digits.len() == 2) && digits.bytes().all(|b| b.is_ascii_digit())
}

#[test]
fn custom_tools_follow_lark_and_regex() {
    let lark = "start: number (\"+\" number)~0..3\nnumber: /[0-9]{1,2}/\n";
    type Case = (GrammarSource, fn(&str) -> bool);
    let cases: [Case; 2] = [
        (GrammarSource::Lark(lark.to_owned()), is_sum),
        (GrammarSource::Regex("[a-f]{3,8}(-[0-9]{2})?".to_owned()), is_code),
    ];
    let mut rng = StdRng::seed_from_u64(9);
    for (source, is_legal) in cases {
        let rules = [(GrammarScope::Call("functions.c".to_owned()), source)];
        let options = EnvelopeOptions {
            recipients: vec!["functions.c".to_owned()],
            allow_final: false,
            ..EnvelopeOptions::default()
        };
        for kit in [&*O200K, &*SMALL] {
            for _ in 0..30 {
                let turn = walk(&mut rng, &kit.tokenizer, &mut turn(kit, &options, &rules));
                let (header, text, reason, _) = turn.last().unwrap();
                assert_eq!((header.recipient.as_deref(), *reason), (Some("functions.c"), EndReason::Call));
                assert!(is_legal(text), "{text:?}");
            }
        }
    }
}

#[test]
fn reasoning_ends_at_its_budget() {
    let mut rng = StdRng::seed_from_u64(10);
    let tokenizer = &SMALL.tokenizer;
    for max in [1, 2, 9] {
        let mut was_cut = false;
        for _ in 0..200 {
            let recipients = vec!["functions.f".to_owned()];
            let options = EnvelopeOptions { recipients, ..EnvelopeOptions::default() };
            let mut grammar = turn(&SMALL, &options, &[]).with_max_reasoning_tokens(max);
            let turn = walk(&mut rng, tokenizer, &mut grammar);
            let thoughts = turn
                .iter()
                .filter(|(header, ..)| header.channel == Channel::Analysis && header.recipient.is_none());
            let num_thoughts: usize = thoughts.map(|message| message.3).sum();
            assert!(num_thoughts <= max, "{num_thoughts} of {max}");
            was_cut |= num_thoughts == max;
            let (last, _, reason, _) = turn.last().unwrap();
            let ends_well =
                matches!((&last.recipient, reason), (Some(_), EndReason::Call) | (None, EndReason::Return));
            assert!(ends_well, "{turn:?}");
        }
        assert!(was_cut);
    }
}

#[test]
fn what_cannot_be_compiled_is_refused_with_a_reason() {
    let lark = |text: &str| GrammarSource::Lark(text.to_owned());
    let overlapping = json!({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]});
    let unknown = json!({"type": "object", "properties": {}, "dependentRequired": {"a": ["b"]}});
    let cases = [
        (exact(&json!({"type": "wibble"})), "wibble"),
        (exact(&json!({"type": "string", "minLength": 5, "maxLength": 1})), "nsatisfiable"),
        (exact(&json!({"$ref": "#/$defs/missing"})), "missing"),
        (exact(&overlapping), "oneOf"),
        (exact(&unknown), "dependentRequired"),
        (GrammarSource::JsonSchema { schema: "{".to_owned(), lenient: false }, "EOF"),
        (GrammarSource::JsonSchema { schema: "3".to_owned(), lenient: false }, "object"),
        (GrammarSource::Regex("(".to_owned()), "regex"),
        (lark("start: missing"), "missing"),
        (lark("start: <|call|>"), "call"),
        (lark(""), ""),
    ];
    for (source, part) in cases {
        match SMALL.compiler.compile(&source) {
            Err(HarmonyError::Grammar { reason }) => assert!(reason.contains(part), "{source:?}: {reason}"),
            other => panic!("{source:?}: {other:?}"),
        }
    }
    let long = json!({"description": "x".repeat(300 << 10)});
    let error = SMALL.compiler.compile(&exact(&long)).unwrap_err();
    assert!(matches!(error, HarmonyError::GrammarTooLong { max: 262_144, .. }), "{error}");
    for schema in [overlapping, unknown] {
        let lenient = GrammarSource::JsonSchema { schema: schema.to_string(), lenient: true };
        SMALL.compiler.compile(&lenient).unwrap();
    }
}

#[test]
fn a_grammar_beyond_its_limits_lets_the_turn_end() {
    // To know which letter stood 16 places ago takes 2^16 states of the lexer, more than a turn may have.
    let source = GrammarSource::Regex("[ab]*a[ab]{16}".to_owned());
    let tokenizer = &SMALL.tokenizer;
    let mut grammar = turn(&SMALL, &EnvelopeOptions::default(), &[(GrammarScope::Final, source)]);
    for id in tokenizer.encode_with_special_tokens("<|channel|>final<|message|>") {
        grammar.accept(id);
    }
    let mut rng = StdRng::seed_from_u64(11);
    let letters = tokenizer.encode_ordinary("a\nb");
    let letters = [letters[0], letters[2]];
    let mut num_letters = 0;
    while grammar.failure().is_none() {
        let letter = *letters.choose(&mut rng).unwrap();
        assert!(is_allowed(grammar.allowed(), letter) || grammar.failure().is_some());
        grammar.accept(letter);
        num_letters += 1;
        assert!(num_letters < 200_000, "the limits hold");
    }
    let end = tokenizer.special(SpecialToken::Return);
    assert!(is_allowed(grammar.allowed(), end) && is_allowed(grammar.allowed(), letters[0]));
    assert!(!is_allowed(grammar.allowed(), tokenizer.special(SpecialToken::Channel)));
    grammar.accept(end);
    assert_eq!(grammar.scope(), Scope::Done);
    assert!(grammar.failure().is_some());
}
