//! A vocabulary of the 256 bytes and harmony's special tokens: every input is a sequence of tokens.

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::STANDARD};
use ossia_harmony::{SpecialToken, Tokenizer};

pub static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let ranks: String = (0..=255u8).map(|byte| format!("{} {byte}\n", STANDARD.encode([byte]))).collect();
    Tokenizer::from_tiktoken_ranks(ranks.as_bytes()).expect("256 bytes are a vocabulary")
});

/// Bytes from 0xF5 on, which UTF-8 never has, stand for special tokens; the others for themselves.
pub fn tokens(data: &[u8]) -> impl Iterator<Item = u32> + '_ {
    data.iter().map(|&byte| match byte.checked_sub(0xF5).and_then(|at| SpecialToken::ALL.get(at as usize)) {
        Some(&special) => TOKENIZER.special(special),
        None => u32::from(byte), // its rank above, which is its id
    })
}
