//! Loading a tokenizer.json.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::{Inner, Tokenizer, Vocab, byte_level, split};
use crate::HarmonyError;

impl Tokenizer {
    /// Loads a tokenizer.json.
    ///
    /// # Errors
    /// If the file cannot be read, is no tokenizer.json, or lacks one of the [`SpecialToken`](crate::SpecialToken)s.
    pub fn from_file(path: &Path) -> Result<Self, HarmonyError> {
        let bytes = std::fs::read(path)
            .map_err(|source| HarmonyError::ReadTokenizer { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes)
    }

    /// Loads a tokenizer.json from its bytes.
    ///
    /// # Errors
    /// If it is no tokenizer.json, or lacks one of the [`SpecialToken`](crate::SpecialToken)s.
    pub fn from_bytes(json: &[u8]) -> Result<Self, HarmonyError> {
        refuse_what_panics(json)?;
        Self::from_library(tokenizers::Tokenizer::from_bytes(json).map_err(parse_error)?)
    }

    /// The tokenizer as a tokenizer.json.
    ///
    /// # Errors
    /// If the tokenizers library cannot write what it has read.
    pub fn to_json(&self) -> Result<String, HarmonyError> {
        self.inner.library.to_string(false).map_err(parse_error)
    }

    fn from_library(library: tokenizers::Tokenizer) -> Result<Self, HarmonyError> {
        let added = library.get_added_tokens_decoder();
        let tokens = library.get_vocab(true).into_iter().map(|(text, id)| {
            let bytes = if added.contains_key(&id) { None } else { byte_level::decode(&text) };
            (id, bytes.unwrap_or_else(|| text.into_bytes()))
        });
        let tokens = tokens.collect();
        Self::from_parts(library, tokens)
    }

    /// `tokens` maps ids to bytes: the vocabulary of `library`, added tokens included.
    pub(super) fn from_parts(
        mut library: tokenizers::Tokenizer,
        tokens: Vec<(u32, Vec<u8>)>,
    ) -> Result<Self, HarmonyError> {
        library.set_encode_special_tokens(true);
        let added = library.get_added_tokens_decoder();
        let control = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let vocab = Vocab::new(tokens, control)?;
        let only_special_added = added.values().all(|token| token.special);
        let is_o200k =
            only_special_added && library.get_normalizer().is_none() && has_o200k_splitter(&library);
        Ok(Self { inner: Arc::new(Inner { library, is_o200k, vocab }) })
    }
}

/// The library panics where the `decoder` is no JSON, and where a normaliser of the type Precompiled is not as it expects.
fn refuse_what_panics(json: &[u8]) -> Result<(), HarmonyError> {
    #[derive(Deserialize)]
    struct Parts {
        #[serde(rename = "decoder", default)]
        _decoder: Value,
        #[serde(default)]
        normalizer: Value,
    }
    let parts: Parts = serde_json::from_slice(json)
        .map_err(|error| HarmonyError::ParseTokenizer { reason: error.to_string() })?;
    if is_precompiled(&parts.normalizer) {
        let reason = "the normalizer is of the type Precompiled, which no vocabulary of bytes has".to_owned();
        return Err(HarmonyError::ParseTokenizer { reason });
    }
    Ok(())
}

/// Whether a normaliser, or one within it, is of the type Precompiled.
fn is_precompiled(normalizer: &Value) -> bool {
    match normalizer {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == "Precompiled")
                || fields.values().any(is_precompiled)
        }
        Value::Array(items) => items.iter().any(is_precompiled),
        _ => false,
    }
}

pub(super) fn parse_error(error: tokenizers::Error) -> HarmonyError {
    HarmonyError::ParseTokenizer { reason: error.to_string() }
}

/// The pre-tokeniser of o200k: cut by the pattern, then write bytes as characters.
pub(super) fn o200k_splitter() -> Result<Vec<PreTokenizerWrapper>, HarmonyError> {
    let pattern = SplitPattern::Regex(split::O200K_PATTERN.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(parse_error)?;
    Ok(vec![split.into(), ByteLevel::new(false, true, false).into()])
}

/// Whether the pre-tokeniser does what [`split::pieces`] does.
fn has_o200k_splitter(library: &tokenizers::Tokenizer) -> bool {
    let Some(PreTokenizerWrapper::Sequence(sequence)) = library.get_pre_tokenizer() else {
        return false;
    };
    let [PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)] = sequence.as_ref() else {
        return false;
    };
    let is_pattern =
        matches!(&split.pattern, SplitPattern::Regex(pattern) if pattern == split::O200K_PATTERN);
    let isolates = split.behavior == SplitDelimiterBehavior::Isolated && !split.invert;
    is_pattern && isolates && !bytes.add_prefix_space && !bytes.use_regex
}
