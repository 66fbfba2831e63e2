//! Vocabularies from strangers: a tokenizer.json or a file of ranks ends in a tokenizer or in a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ossia_harmony::Tokenizer;

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let tokenizer = match choice % 2 {
        0 => Tokenizer::from_bytes(data),
        _ => Tokenizer::from_tiktoken_ranks(data),
    };
    let Ok(tokenizer) = tokenizer else { return };
    let ids = tokenizer.encode_ordinary("a word, 42 and \u{1F3B5}");
    tokenizer.decode(&ids);
});
