//! Whatever tokens a model emits, both APIs give a valid stream whose fold is the whole answer.

use ossia_engine::{FinishReason, GeneratedToken, GenerationEvent, TokenLogprobs};
use ossia_harmony::{SpecialToken, Tokenizer};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::reader::Reader;
use super::{Callable, EndReason, PartKind, TurnBuilder, TurnEnd, TurnEvent};
use crate::test_support::small;

/// A piece of what a confused model may say.
#[derive(Debug, Clone)]
enum Piece {
    Special(SpecialToken),
    Word(&'static str),
    /// Any token at all, half characters and reserved specials included.
    Any(u32),
}

const WORDS: [&str; 15] = [
    "analysis",
    "final",
    "commentary",
    "finalx",
    "assistant",
    " to=functions.f",
    " to=browser.search",
    " to=functions.write",
    " json",
    "user",
    "{\"a\": 1}",
    "héllo 🦀 wörld",
    "STOP",
    "ST",
    "OP it",
];

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        4 => prop::sample::select(&SpecialToken::ALL[..]).prop_map(Piece::Special),
        4 => prop::sample::select(&WORDS[..]).prop_map(Piece::Word),
        1 => (0u32..20_100).prop_map(Piece::Any),
    ]
}

fn tokens(tokenizer: &Tokenizer, pieces: &[Piece]) -> Vec<u32> {
    pieces
        .iter()
        .flat_map(|piece| match piece {
            Piece::Special(special) => vec![tokenizer.special(*special)],
            Piece::Word(word) => tokenizer.encode_ordinary(word),
            Piece::Any(id) => vec![*id],
        })
        .collect()
}

fn end() -> impl Strategy<Value = FinishReason> {
    prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::Length),
        Just(FinishReason::Failed("out of luck".to_owned())),
    ]
}

/// The events of a turn that generates `tokens`.
pub(crate) fn run(tokens: &[u32], stops: &[&str], finish: &FinishReason) -> Vec<TurnEvent> {
    let stops = stops.iter().map(|stop| (*stop).to_owned()).collect();
    let mut builder = TurnBuilder::new(small(), stops, Vec::new()).with_tools(vec![Callable {
        recipient: "functions.write".to_owned(),
        namespace: None,
        name: "write".to_owned(),
        custom: true,
    }]);
    follow(&mut builder, tokens, finish)
}

fn follow(builder: &mut TurnBuilder, tokens: &[u32], finish: &FinishReason) -> Vec<TurnEvent> {
    let mut events = Vec::new();
    builder.push(GenerationEvent::Started { num_prompt_tokens: 10, num_cached_tokens: 4 }, &mut events);
    for &id in tokens {
        let logprobs = Some(TokenLogprobs { logprob: -0.5, top: Vec::new() });
        builder.push(GenerationEvent::Token(GeneratedToken { id, logprobs }), &mut events);
    }
    builder.push(GenerationEvent::Finished(finish.clone()), &mut events);
    events
}

/// Started, well nested parts, finished; nothing empty in between, and after a call nothing but calls.
fn check_nesting(events: &[TurnEvent]) {
    let (first, rest) = events.split_first().expect("a turn has events");
    let (last, parts) = rest.split_last().expect("a turn finishes");
    assert_eq!(*first, TurnEvent::Started);
    assert!(matches!(last, TurnEvent::Finished(_)));
    let (mut open, mut called) = (None, false);
    for event in parts {
        match event {
            TurnEvent::PartStart(kind) => {
                assert!(open.replace(kind.clone()).is_none(), "nested parts");
                let is_call = matches!(kind, PartKind::Call(_));
                assert!(is_call || !called, "{kind:?} after a call");
                called |= is_call;
            }
            TurnEvent::Delta { text, logprobs } => {
                assert!(open.is_some() && !(text.is_empty() && logprobs.is_empty()));
            }
            TurnEvent::PartEnd { .. } => assert!(open.take().is_some(), "a part ends that has not begun"),
            TurnEvent::Started | TurnEvent::Finished(_) => panic!("{event:?} in the middle"),
        }
    }
    assert!(open.is_none(), "a part is left open");
}

fn text_of(events: &[TurnEvent], wanted: &PartKind) -> String {
    let mut text = String::new();
    let mut inside = false;
    for event in events {
        match event {
            TurnEvent::PartStart(kind) => inside = kind == wanted,
            TurnEvent::Delta { text: delta, .. } if inside => text.push_str(delta),
            _ => {}
        }
    }
    text
}

/// Each answer's text.
fn answers(events: &[TurnEvent]) -> Vec<String> {
    let parts = events.split(|event| matches!(event, TurnEvent::PartEnd { .. }));
    parts.map(|part| text_of(part, &PartKind::Answer)).collect()
}

fn num_calls(events: &[TurnEvent]) -> usize {
    events.iter().filter(|event| matches!(event, TurnEvent::PartStart(PartKind::Call(_)))).count()
}

fn end_of(events: &[TurnEvent]) -> &TurnEnd {
    match events.last() {
        Some(TurnEvent::Finished(end)) => end,
        other => panic!("{other:?} at the end"),
    }
}

/// `OSSIA_TEST_TURNS` turns, or few enough for every test run.
fn num_turns() -> u32 {
    let number = std::env::var("OSSIA_TEST_TURNS").ok();
    number.map_or(2_000, |number| number.parse().expect("OSSIA_TEST_TURNS is a number"))
}

/// Checks one turn through both APIs.
fn check_turn(ids: &[u32], finish: &FinishReason, has_stop: bool) {
    let stops: &[&str] = if has_stop { &["STOP"] } else { &[] };
    let events = run(ids, stops, finish);
    check_nesting(&events);
    let end = end_of(&events);
    assert!(end.usage.completion_tokens <= ids.len());
    assert!(end.usage.reasoning_tokens <= end.usage.completion_tokens);
    if has_stop {
        assert!(answers(&events).iter().all(|answer| !answer.contains("STOP")));
    } else if num_calls(&events) == 0 {
        assert_eq!(end.usage.completion_tokens, ids.len());
    }
    crate::api::fold_check(&events);
}

/// On every core its share of the turns, each core with seeds of its own.
#[test]
fn any_tokens_give_a_valid_turn() {
    let tokenizer = small();
    let num_threads = std::thread::available_parallelism().map_or(1, |number| number.get() as u32);
    let config = ProptestConfig::with_cases(num_turns().div_ceil(num_threads));
    let turns = (prop::collection::vec(piece(), 0..40), end(), any::<bool>());
    std::thread::scope(|scope| {
        for _ in 0..num_threads {
            scope.spawn(|| {
                let check = |(pieces, finish, has_stop): (Vec<Piece>, FinishReason, bool)| {
                    check_turn(&tokens(&tokenizer, &pieces), &finish, has_stop);
                    Ok(())
                };
                let outcome = TestRunner::new(config.clone()).run(&turns, check);
                outcome.unwrap_or_else(|error| panic!("{error}"));
            });
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_tokens_are_raw_text(pieces in prop::collection::vec(piece(), 0..40), skip_special_tokens: bool) {
        let tokenizer = small();
        let ids = tokens(&tokenizer, &pieces);
        let reader = Reader::raw(tokenizer.clone(), skip_special_tokens);
        let mut builder = TurnBuilder::with_reader(reader, tokenizer.clone(), Vec::new(), Vec::new());
        let events = follow(&mut builder, &ids, &FinishReason::Length);
        check_nesting(&events);
        let is_text = |id: &u32| !skip_special_tokens || !tokenizer.control_token_ids().contains(id);
        let text: Vec<u32> = ids.iter().copied().filter(is_text).collect();
        prop_assert_eq!(text_of(&events, &PartKind::Answer), tokenizer.decode(&text));
    }
}

/// Tokens of harmony text.
fn harmony(text: &str) -> Vec<u32> {
    small().encode_with_special_tokens(text)
}

#[test]
fn messages_become_parts_by_channel_and_recipient() {
    let call = |name: &str| PartKind::Call(Callable::function(name));
    let cases = [
        ("<|channel|>final<|message|>Hi<|return|>", PartKind::Answer, "Hi", EndReason::Stop),
        ("<|channel|>commentary<|message|>Hi<|return|>", PartKind::Preamble, "Hi", EndReason::Stop),
        ("<|channel|>analysis<|message|>Hi<|return|>", PartKind::Reasoning, "Hi", EndReason::Stop),
        (
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
            call("f"),
            "{}",
            EndReason::ToolCalls,
        ),
        ("<|channel|>analysis to=functions.f<|message|>{}<|call|>", call("f"), "{}", EndReason::ToolCalls),
        (" to=functions.f<|channel|>final<|message|>{}<|call|>", call("f"), "{}", EndReason::ToolCalls),
    ];
    for (text, kind, expected, reason) in cases {
        let events = run(&harmony(text), &[], &FinishReason::Stop);
        assert_eq!(text_of(&events, &kind), expected, "{text}");
        assert_eq!(end_of(&events).reason, reason, "{text}");
        assert!(events.contains(&TurnEvent::PartEnd { complete: true }), "{text}");
    }
}

#[test]
fn several_calls_are_one_turn_and_whatever_follows_them_is_not() {
    let call = |name: &str| format!("<|channel|>commentary to=functions.{name}<|message|>{{}}");
    let two = format!("{}<|end|><|start|>assistant{}", call("f"), call("g"));
    for (rest, reason) in [
        ("<|call|>", EndReason::ToolCalls),
        ("<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>", EndReason::ToolCalls),
        ("<|end|><|start|>assistant<|channel|>analysis<|message|>Now wait", EndReason::ToolCalls),
        ("<|end|><|start|>assistant", EndReason::Length),
    ] {
        let finish = if reason == EndReason::Length { FinishReason::Length } else { FinishReason::Stop };
        let events = run(&harmony(&format!("{two}{rest}")), &[], &finish);
        check_nesting(&events);
        assert_eq!((num_calls(&events), &end_of(&events).reason), (2, &reason), "{rest}");
        for name in ["f", "g"] {
            assert_eq!(text_of(&events, &PartKind::Call(Callable::function(name))), "{}", "{rest}");
        }
    }
}

#[test]
fn a_cut_part_is_incomplete_and_counts_its_tokens() {
    let ids = harmony("<|channel|>analysis<|message|>one two three");
    let events = run(&ids, &[], &FinishReason::Length);
    assert!(events.contains(&TurnEvent::PartEnd { complete: false }));
    let end = end_of(&events);
    assert_eq!((end.usage.completion_tokens, end.usage.reasoning_tokens), (ids.len(), 3));
    assert_eq!(end.reason, EndReason::Length);
}

#[test]
fn a_stop_string_ends_the_turn_at_once() {
    let ids = harmony(
        "<|channel|>analysis<|message|>STOP?<|end|><|start|>assistant<|channel|>final<|message|>a STOP b",
    );
    let events = run(&ids, &["STOP"], &FinishReason::Stop);
    assert_eq!(text_of(&events, &PartKind::Reasoning), "STOP?");
    assert_eq!(text_of(&events, &PartKind::Answer), "a ");
    assert_eq!(end_of(&events).reason, EndReason::Stop);
    assert!(end_of(&events).usage.completion_tokens < ids.len());
}
