//! The checkpoint's tokenizer: text to token ids and back, special tokens by their text.

mod byte_level;
mod detokenizer;
mod load;
mod ranks;
mod split;
mod vocab;

use std::fmt;
use std::sync::Arc;

use tokenizers::Model;

pub use detokenizer::Detokenizer;
pub(crate) use vocab::Vocab;

use crate::SpecialToken;

/// A harmony tokenizer. Cheap to clone; shared by all requests.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    /// The library's tokenizer, set to read special tokens in text as plain text.
    library: tokenizers::Tokenizer,
    /// Whether the pre-tokeniser is o200k's and nothing else, so that ours can stand in for it.
    is_o200k: bool,
    vocab: Vocab,
}

impl Tokenizer {
    /// Token ids of plain text. Text that looks like a special token is plain text too.
    pub fn encode_ordinary(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        self.encode_ordinary_into(text, &mut ids);
        ids
    }

    /// Appends the token ids of plain text to `ids`.
    pub fn encode_ordinary_into(&self, text: &str, ids: &mut Vec<u32>) {
        if !self.inner.is_o200k {
            // The library fails only on a normalizer or pre-tokeniser that fails; then every byte is a token.
            match self.inner.library.encode_fast(text, false) {
                Ok(encoding) => ids.extend_from_slice(encoding.get_ids()),
                Err(_) => ids.extend(text.bytes().filter_map(|byte| self.inner.vocab.id_of(&[byte]))),
            }
            return;
        }
        let model = self.inner.library.get_model();
        let mut encoded = String::new();
        for piece in split::pieces(text) {
            encoded.clear();
            byte_level::push_encoded(&mut encoded, piece.as_bytes());
            if let Ok(tokens) = model.tokenize(&encoded) {
                ids.extend(tokens.iter().map(|token| token.id));
            }
        }
    }

    /// Token ids of text in which the text of a special token stands for that token.
    pub fn encode_with_special_tokens(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 1);
        let mut plain_at = 0;
        let mut at = 0;
        while at < text.len() {
            match self.inner.vocab.control_token_at(&text[at..]) {
                Some((id, len)) => {
                    self.encode_ordinary_into(&text[plain_at..at], &mut ids);
                    ids.push(id);
                    at += len;
                    plain_at = at;
                }
                None => at += text[at..].chars().next().map_or(1, char::len_utf8),
            }
        }
        self.encode_ordinary_into(&text[plain_at..], &mut ids);
        ids
    }

    /// The bytes of a token; of a special token, its text; empty for an id that is no token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.inner.vocab.bytes(id)
    }

    /// The text of `ids`, special tokens as their text; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The id of a special token.
    pub fn special(&self, token: SpecialToken) -> u32 {
        self.inner.vocab.special(token)
    }

    /// Which special token `id` is; `None` for ordinary and for reserved tokens.
    pub fn is_special(&self, id: u32) -> Option<SpecialToken> {
        self.inner.vocab.special_of(id)
    }

    /// The ids of all special tokens, reserved ones included, in ascending order. None of them belongs in text.
    pub fn control_token_ids(&self) -> &[u32] {
        self.inner.vocab.control_ids()
    }

    /// One more than the largest token id. The model's logits may be longer: it pads its vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.inner.vocab.len()
    }

    /// The tokens that end a turn: `<|return|>`, `<|call|>`, `<|endoftext|>`.
    pub fn stop_token_ids(&self) -> [u32; 3] {
        [SpecialToken::Return, SpecialToken::Call, SpecialToken::EndOfText].map(|token| self.special(token))
    }

    pub(crate) fn vocab(&self) -> &Vocab {
        &self.inner.vocab
    }
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}
