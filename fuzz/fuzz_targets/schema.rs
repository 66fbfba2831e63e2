//! Schemas and grammars from strangers: compiling one ends in a grammar or in a reason, and a grammar can be followed.
#![no_main]

mod tokenizer;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ossia_harmony::{
    Allowed, EnvelopeGrammar, EnvelopeOptions, GrammarCompiler, GrammarScope, GrammarSource, Scope, TurnGrammar,
};
use tokenizer::{TOKENIZER, tokens};

static COMPILER: LazyLock<GrammarCompiler> =
    LazyLock::new(|| GrammarCompiler::new(&TOKENIZER).expect("a usable vocabulary"));

/// Steps of a turn that are followed.
const MAX_STEPS: usize = 200;

fuzz_target!(|data: (u8, String)| {
    let (kind, text) = data;
    let bytes = text.clone();
    let source = match kind % 4 {
        0 => GrammarSource::JsonSchema { schema: text, lenient: false },
        1 => GrammarSource::JsonSchema { schema: text, lenient: true },
        2 => GrammarSource::Regex(text),
        _ => GrammarSource::Lark(text),
    };
    let Ok(content) = COMPILER.compile(&source) else { return };
    let envelope = EnvelopeGrammar::new(&TOKENIZER, &EnvelopeOptions::default()).expect("legal options");
    let mut grammar = TurnGrammar::new(envelope, vec![(GrammarScope::Final, content)]);
    for token in TOKENIZER.encode_with_special_tokens("<|channel|>final<|message|>") {
        grammar.accept(token);
    }
    let choices = bytes.bytes().cycle().chain(std::iter::repeat(0));
    for choice in choices.take(MAX_STEPS) {
        let token = match grammar.allowed() {
            Allowed::Only(ids) => ids[choice as usize % ids.len()],
            Allowed::Bitmask(words) => {
                let is_set = |id: &u32| words.get(*id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1);
                let ids: Vec<u32> = (0..TOKENIZER.vocab_size() as u32).filter(is_set).collect();
                ids[choice as usize % ids.len()]
            }
            Allowed::Except(_) | Allowed::All => tokens(&[choice]).next().expect("a byte is a token"),
        };
        grammar.accept(token);
        if grammar.scope() == Scope::Done {
            return;
        }
    }
});
