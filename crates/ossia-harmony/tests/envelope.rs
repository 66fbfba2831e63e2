//! What can be sampled under the mask is well-formed, and what is well-formed can be sampled.
#![allow(clippy::unwrap_used)]

mod common;

use ossia_harmony::{
    Allowed, Channel, EndReason, EnvelopeGrammar, EnvelopeOptions, HarmonyError, Header, ParserEvent, Role,
    Scope, SpecialToken, StreamableParser, Tokenizer,
};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const RECIPIENTS: [&str; 6] = [
    "functions.get",
    "functions.get_weather",
    "functions.set_timer",
    "functions.Größe",
    "browser.search",
    "python",
];

fn options(recipients: &[&str]) -> EnvelopeOptions {
    EnvelopeOptions {
        recipients: recipients.iter().map(|&name| name.to_owned()).collect(),
        ..EnvelopeOptions::default()
    }
}

fn is_allowed(allowed: Allowed<'_>, id: u32) -> bool {
    match allowed {
        Allowed::All => true,
        Allowed::Except(ids) => ids.binary_search(&id).is_err(),
        Allowed::Only(ids) => ids.binary_search(&id).is_ok(),
        Allowed::Bitmask(_) => panic!("an envelope has no bitmask"),
    }
}

/// A random token that the mask allows.
fn sample(rng: &mut StdRng, tokenizer: &Tokenizer, allowed: Allowed<'_>) -> u32 {
    match allowed {
        Allowed::Only(ids) => *ids.choose(rng).unwrap(),
        _ if rng.random_bool(0.3) => loop {
            let id = *tokenizer.control_token_ids().choose(rng).unwrap();
            if is_allowed(allowed, id) {
                return id;
            }
        },
        _ => loop {
            let id = rng.random_range(0..tokenizer.vocab_size() as u32);
            if is_allowed(allowed, id) {
                return id;
            }
        },
    }
}

/// A turn sampled at random under the mask; what is sampled is also parsed.
fn walk(rng: &mut StdRng, tokenizer: &Tokenizer, options: &EnvelopeOptions) -> Vec<ParserEvent> {
    let mut grammar = EnvelopeGrammar::new(tokenizer, options).unwrap();
    let mut parser = StreamableParser::new(tokenizer.clone());
    let mut events = Vec::new();
    while grammar.scope() != Scope::Done {
        let token = sample(rng, tokenizer, grammar.allowed());
        grammar.accept(token);
        assert_ne!(grammar.scope(), Scope::Unknown, "an allowed token is accepted");
        let new = parser.push(token);
        for event in &new {
            if let ParserEvent::MessageStart(header) = event {
                assert_eq!(grammar.scope(), scope_of(header), "grammar and parser agree");
            }
        }
        events.extend(new);
    }
    assert_eq!(parser.finish(), []);
    events
}

fn scope_of(header: &Header) -> Scope<'_> {
    match (&header.recipient, header.channel) {
        (Some(recipient), _) => Scope::Call(recipient),
        (None, Channel::Analysis) => Scope::Analysis,
        (None, Channel::Commentary) => Scope::Preamble,
        (None, Channel::Final) => Scope::Final,
    }
}

fn check_well_formed(events: &[ParserEvent], options: &EnvelopeOptions) {
    let (mut header, mut num_calls) = (None, 0);
    let mut num_ended_turns = 0;
    for event in events {
        match event {
            ParserEvent::MessageStart(start) => {
                assert_eq!((start.author.role, &start.unknown_channel), (Role::Assistant, &None));
                let types = [None, Some("<|constrain|>json"), Some("json"), Some("code")];
                assert!(types.contains(&start.content_type.as_deref()), "{start:?}");
                header = Some(start);
            }
            ParserEvent::Delta(_) => {}
            ParserEvent::MessageEnd(end) => {
                let header = header.take().unwrap();
                let expected = match (&header.recipient, header.channel) {
                    (Some(recipient), _) => {
                        assert!(options.recipients.contains(recipient), "{recipient} was not declared");
                        num_calls += 1;
                        let goes_on = options.parallel_calls && end.reason == EndReason::End;
                        if goes_on { EndReason::End } else { EndReason::Call }
                    }
                    (None, Channel::Final) => {
                        assert!(options.allow_final || num_calls > 0);
                        EndReason::Return
                    }
                    (None, Channel::Commentary) => {
                        assert!(!options.recipients.is_empty() && options.allow_preamble);
                        EndReason::End
                    }
                    (None, Channel::Analysis) => {
                        assert!(options.allow_analysis);
                        EndReason::End
                    }
                };
                assert_eq!(end.reason, expected);
                num_ended_turns += usize::from(expected != EndReason::End);
            }
        }
    }
    assert_eq!(num_ended_turns, 1);
    assert!(options.parallel_calls || num_calls < 2);
}

fn num_calls(events: &[ParserEvent]) -> usize {
    let is_call = |event: &&ParserEvent| matches!(event, ParserEvent::MessageStart(header) if header.recipient.is_some());
    events.iter().filter(is_call).count()
}

#[test]
fn random_walks_are_well_formed() {
    let mut rng = StdRng::seed_from_u64(3);
    let (mut turns_with_a_call, mut turns_with_several) = (0, 0);
    for (tokenizer, walks) in [(common::o200k(), 5_000), (common::small(), 5_000)] {
        for _ in 0..walks {
            let mut options = options(&RECIPIENTS);
            options.recipients.retain(|_| rng.random_bool(0.5));
            options.allow_analysis = rng.random_bool(0.8);
            options.allow_preamble = rng.random_bool(0.5);
            options.allow_final = options.recipients.is_empty() || rng.random_bool(0.5);
            options.parallel_calls = rng.random_bool(0.5);
            let events = walk(&mut rng, &tokenizer, &options);
            check_well_formed(&events, &options);
            turns_with_a_call += usize::from(num_calls(&events) > 0);
            turns_with_several += usize::from(num_calls(&events) > 1);
        }
    }
    assert!(turns_with_a_call > 1_000 && turns_with_several > 200, "the walks reach calls");
}

#[test]
fn the_mask_is_exact_in_headers() {
    let tokenizer = common::small();
    let mut rng = StdRng::seed_from_u64(4);
    for _ in 0..200 {
        let mut grammar = EnvelopeGrammar::new(&tokenizer, &options(&RECIPIENTS)).unwrap();
        for _ in 0..60 {
            if grammar.scope() == Scope::Header {
                for id in 0..tokenizer.vocab_size() as u32 {
                    let mut next = grammar.clone();
                    next.accept(id);
                    assert_eq!(
                        is_allowed(grammar.allowed(), id),
                        next.scope() != Scope::Unknown,
                        "token {id}"
                    );
                }
            }
            let token = sample(&mut rng, &tokenizer, grammar.allowed());
            grammar.accept(token);
        }
    }
}

#[test]
fn headers_as_the_tokenizer_writes_them_are_allowed() {
    let outputs = [
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant to=functions.get<|channel|>commentary <|constrain|>json<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.set_timer json<|message|>{}<|call|>",
        "<|channel|>analysis to=browser.search code<|message|>{}<|call|>",
        " to=python<|channel|>analysis code<|message|>1<|call|>",
        "<|channel|>final<|message|>to=functions.get <|return|>",
    ];
    for tokenizer in [common::o200k(), common::small()] {
        for output in outputs {
            let mut grammar = EnvelopeGrammar::new(&tokenizer, &options(&RECIPIENTS)).unwrap();
            for id in tokenizer.encode_with_special_tokens(output) {
                assert!(is_allowed(grammar.allowed(), id), "{:?} in {output}", tokenizer.decode(&[id]));
                grammar.accept(id);
            }
            assert_eq!(grammar.scope(), Scope::Done);
        }
    }
}

#[test]
fn what_is_not_declared_is_not_allowed() {
    let tokenizer = common::o200k();
    let no_preamble = EnvelopeOptions { allow_preamble: false, ..options(&["functions.get"]) };
    let text =
        EnvelopeOptions { text_recipients: vec!["functions.get".to_owned()], ..options(&["functions.get"]) };
    let no_final = EnvelopeOptions { allow_final: false, ..options(&["functions.get"]) };
    let no_thought = EnvelopeOptions { allow_analysis: false, ..options(&[]) };
    let cases = [
        (options(&[]), " to=functions.get"),
        (options(&[]), "<|channel|>commentary"),
        (options(&["functions.get"]), "<|channel|>commentary to=functions.set"),
        (options(&["functions.get"]), "<|channel|>commentary to=functions.get_"),
        (options(&["functions.get"]), "<|channel|>final to=functions.get"),
        (options(&["functions.get"]), "<|channel|>final<|message|>Hi<|call|>"),
        (options(&["functions.get"]), "<|channel|>final<|message|>Hi<|end|>"),
        (options(&["functions.get"]), "<|channel|>final<|message|>Hi<|reserved_200000|>"),
        (options(&["functions.get"]), "<|channel|>analysis<|message|>Hi<|return|>"),
        (options(&["functions.get"]), "<|channel|>commentary to=functions.get<|message|>{}<|end|>"),
        (text.clone(), "<|channel|>commentary to=functions.get<|constrain|>"),
        (text.clone(), "<|channel|>commentary to=functions.get json"),
        (text, " to=functions.get<|channel|>commentary <|constrain|>"),
        (no_preamble, "<|channel|>commentary<|message|>"),
        (no_final, "<|channel|>final"),
        (no_thought, "<|channel|>analysis"),
    ];
    for (options, output) in cases {
        assert!(!follow(&tokenizer, &options, output).0, "{output} with {options:?}");
    }
}

/// The tokens of `output` one after the other; whether all were allowed, and what may come then.
fn follow(tokenizer: &Tokenizer, options: &EnvelopeOptions, output: &str) -> (bool, EnvelopeGrammar) {
    let mut grammar = EnvelopeGrammar::new(tokenizer, options).unwrap();
    let ids = tokenizer.encode_with_special_tokens(output);
    let is_legal = ids.iter().all(|&id| {
        let is_legal = is_allowed(grammar.allowed(), id);
        grammar.accept(id);
        is_legal
    });
    (is_legal, grammar)
}

#[test]
fn several_calls_are_allowed_where_the_options_say_so() {
    let tokenizer = common::o200k();
    let call = |name: &str| format!("<|channel|>commentary to={name} <|constrain|>json<|message|>{{}}");
    let one = call("functions.get");
    let two = format!("{one}<|end|><|start|>assistant{}<|call|>", call("browser.search"));
    let answer = format!("{one}<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>");
    for allow_final in [true, false] {
        let parallel = EnvelopeOptions { allow_final, parallel_calls: true, ..options(&RECIPIENTS) };
        let single = EnvelopeOptions { parallel_calls: false, ..parallel.clone() };
        for output in [&two, &answer] {
            let (is_legal, grammar) = follow(&tokenizer, &parallel, output);
            assert!(is_legal && grammar.scope() == Scope::Done, "{output}");
            assert!(!follow(&tokenizer, &single, output).0, "{output}");
        }
        // One call is enough, and a call is still the first thing that is required.
        assert!(follow(&tokenizer, &parallel, &format!("{one}<|call|>")).0);
        assert_eq!(follow(&tokenizer, &parallel, "<|channel|>final").0, allow_final);
        // The second call has a recipient of its own.
        let begun = two.strip_suffix("<|call|>").unwrap();
        assert_eq!(follow(&tokenizer, &parallel, begun).1.scope(), Scope::Call("browser.search"));
    }
}

#[test]
fn a_padded_vocabulary_is_masked() {
    let tokenizer = common::o200k();
    let options = EnvelopeOptions { padded_vocab_size: Some(201_088), ..options(&[]) };
    let mut grammar = EnvelopeGrammar::new(&tokenizer, &options).unwrap();
    for id in tokenizer.encode_with_special_tokens("<|channel|>final<|message|>") {
        grammar.accept(id);
    }
    assert!(!is_allowed(grammar.allowed(), 201_087));
    assert!(!is_allowed(grammar.allowed(), tokenizer.vocab_size() as u32));
    assert!(is_allowed(grammar.allowed(), 199_997));
    assert!(is_allowed(grammar.allowed(), tokenizer.special(SpecialToken::Return)));
}

#[test]
fn impossible_options_are_errors() {
    let tokenizer = common::small();
    for recipient in ["", "functions.a b", "functions.\n", "a<|call|>", &"x".repeat(257)] {
        let error = EnvelopeGrammar::new(&tokenizer, &options(&[recipient])).unwrap_err();
        assert!(matches!(error, HarmonyError::InvalidRecipient { .. }), "{recipient:?}");
    }
    let nothing = EnvelopeOptions { allow_final: false, ..options(&[]) };
    assert!(matches!(EnvelopeGrammar::new(&tokenizer, &nothing), Err(HarmonyError::EmptyEnvelope)));
}

#[test]
fn an_illegal_token_is_survived() {
    let tokenizer = common::small();
    let mut grammar = EnvelopeGrammar::new(&tokenizer, &options(&["python"])).unwrap();
    grammar.accept(u32::MAX);
    assert_eq!((grammar.allowed(), grammar.scope()), (Allowed::All, Scope::Unknown));
    for id in tokenizer.encode_with_special_tokens("x<|start|>assistant<|channel|>analysis<|message|>") {
        grammar.accept(id);
    }
    assert_eq!(grammar.scope(), Scope::Analysis);
}
