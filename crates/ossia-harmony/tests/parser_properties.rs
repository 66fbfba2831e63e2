//! What holds for every sequence of tokens.
#![allow(clippy::unwrap_used)]

mod common;

use ossia_harmony::{MessageEnd, ParserEvent, SpecialToken, StreamableParser, Tokenizer};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

fn events(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<ParserEvent> {
    let mut parser = StreamableParser::new(tokenizer.clone());
    let mut events: Vec<ParserEvent> = ids.iter().flat_map(|&id| parser.push(id)).collect();
    events.extend(parser.finish());
    assert_eq!(parser.finish(), [], "nothing comes after the end");
    events
}

/// Checks that messages are `start delta* end` and that their tokens are accounted for; returns their ends.
fn check_valid(events: &[ParserEvent], num_tokens: usize) -> Vec<MessageEnd> {
    let (mut is_open, mut ends) = (false, Vec::new());
    for event in events {
        match event {
            ParserEvent::MessageStart(header) => {
                assert!(!is_open, "a message starts inside another");
                assert_ne!(header.recipient.as_deref(), Some(""));
                is_open = true;
            }
            ParserEvent::Delta(text) => assert!(is_open && !text.is_empty()),
            ParserEvent::MessageEnd(end) => {
                assert!(is_open && end.num_content_tokens <= end.num_tokens);
                is_open = false;
                ends.push(*end);
            }
        }
    }
    assert!(!is_open, "a message never ends");
    assert!(ends.iter().map(|end| end.num_tokens).sum::<usize>() <= num_tokens);
    ends
}

/// `OSSIA_TEST_TURNS` sequences, or few enough for every test run.
fn num_sequences() -> usize {
    let number = std::env::var("OSSIA_TEST_TURNS").ok();
    number.map_or(40_000, |number| number.parse().expect("OSSIA_TEST_TURNS is a number"))
}

#[test]
fn any_token_ids_give_a_valid_stream() {
    let mut rng = StdRng::seed_from_u64(1);
    for tokenizer in [common::o200k(), common::small()] {
        let vocab_size = tokenizer.vocab_size() as u32;
        let control = tokenizer.control_token_ids().to_vec();
        for _ in 0..num_sequences() / 2 {
            let len = rng.random_range(0..40);
            let ids: Vec<u32> = (0..len)
                .map(|_| match rng.random_range(0..10) {
                    0 => rng.random_range(0..vocab_size + 100),
                    1..5 => rng.random_range(0..vocab_size),
                    _ => control[rng.random_range(0..control.len())],
                })
                .collect();
            check_valid(&events(&tokenizer, &ids), ids.len());
        }
    }
}

/// A part of a random output: special tokens, words that mean something in headers, and marks that mean nothing.
#[derive(Clone, Debug)]
enum Part {
    Special(SpecialToken),
    Word(&'static str),
    Mark,
}

fn part() -> impl Strategy<Value = Part> {
    let words = [
        "assistant",
        "user",
        "analysis",
        "commentary",
        "final",
        " ",
        "\n",
        " to=",
        "to=functions.f",
        " to=functions.g",
        "json",
        " code",
        "functions.f",
        " all",
        "{\"a\": 1}",
        "—",
        "python",
    ];
    prop_oneof![
        3 => prop::sample::select(SpecialToken::ALL.to_vec()).prop_map(Part::Special),
        2 => prop::sample::select(words.to_vec()).prop_map(Part::Word),
        2 => Just(Part::Mark),
    ]
}

/// The ids of `parts`, each mark another word, and the number of marks.
fn encode(tokenizer: &Tokenizer, parts: &[Part]) -> (Vec<u32>, usize) {
    let (mut ids, mut marks) = (Vec::new(), 0);
    for part in parts {
        match part {
            Part::Special(special) => ids.push(tokenizer.special(*special)),
            Part::Word(word) => ids.extend(tokenizer.encode_ordinary(word)),
            Part::Mark => {
                ids.extend(tokenizer.encode_ordinary(&format!("q{marks}x")));
                marks += 1;
            }
        }
    }
    (ids, marks)
}

/// All text of a stream, headers included.
fn all_text(events: &[ParserEvent]) -> String {
    let mut text = String::new();
    for event in events {
        match event {
            ParserEvent::MessageStart(header) => {
                let parts =
                    [&header.author.name, &header.unknown_channel, &header.recipient, &header.content_type];
                text.extend(parts.into_iter().flatten().map(|part| format!("{part} ")));
            }
            ParserEvent::Delta(delta) => text.push_str(delta),
            ParserEvent::MessageEnd(_) => text.push(' '),
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_text_is_lost_or_doubled(parts in prop::collection::vec(part(), 0..24)) {
        let tokenizer = common::small();
        let (mut ids, marks) = encode(&tokenizer, &parts);
        ids.push(tokenizer.special(SpecialToken::Return));
        let events = events(&tokenizer, &ids);
        check_valid(&events, ids.len());
        let text = all_text(&events);
        for mark in 0..marks {
            prop_assert_eq!(text.matches(&format!("q{mark}x")).count(), 1, "mark {} in {:?}", mark, events);
        }
        prop_assert!(!text.contains("<|") || text.contains("<|constrain|>"), "{}", text);
    }

    #[test]
    fn content_is_the_text_of_its_tokens(bytes in prop::collection::vec(any::<u8>(), 0..30), text in "\\PC{0,12}") {
        let tokenizer = common::small();
        let [channel, message, end] =
            [SpecialToken::Channel, SpecialToken::Message, SpecialToken::Return].map(|token| tokenizer.special(token));
        let content: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte)).chain(tokenizer.encode_ordinary(&text)).collect();
        let mut ids = vec![channel];
        ids.extend(tokenizer.encode_ordinary("final"));
        ids.push(message);
        ids.extend(&content);
        ids.push(end);
        let events = events(&tokenizer, &ids);
        let deltas: String = events.iter().filter_map(|event| match event {
            ParserEvent::Delta(delta) => Some(delta.as_str()),
            _ => None,
        }).collect();
        prop_assert_eq!(deltas, tokenizer.decode(&content));
        let ends = check_valid(&events, ids.len());
        prop_assert_eq!(ends.len(), 1);
        prop_assert_eq!((ends[0].num_tokens, ends[0].num_content_tokens), (ids.len(), content.len()));
    }
}
