//! The one error type of this crate.

use std::path::PathBuf;

/// What can go wrong when a tokenizer, an envelope or a grammar is built. Rendering and parsing cannot fail.
#[derive(Debug, thiserror::Error)]
pub enum HarmonyError {
    /// The tokenizer file could not be read.
    #[error("cannot read tokenizer file {path}: {source}")]
    ReadTokenizer {
        /// The file that was asked for.
        path: PathBuf,
        /// Why it could not be read.
        source: std::io::Error,
    },
    /// The bytes are not a tokenizer.json that the tokenizers library accepts.
    #[error("not a usable tokenizer.json: {reason}")]
    ParseTokenizer {
        /// The library's reason.
        reason: String,
    },
    /// The vocabulary lacks a special token that harmony needs.
    #[error("the tokenizer has no special token {text}, which the harmony format needs")]
    MissingSpecialToken {
        /// The token's text.
        text: &'static str,
    },
    /// A line of a tiktoken rank file is not `base64 rank`.
    #[error("line {line} of the tiktoken rank file is not `<base64> <rank>`")]
    ParseRanks {
        /// 1-based line number.
        line: usize,
    },
    /// The wanted vocabulary is too small to hold the 256 bytes and the special tokens.
    #[error("a vocabulary of {vocab_size} tokens is too small, the least is {min}")]
    VocabTooSmall {
        /// What was asked for.
        vocab_size: usize,
        /// The smallest possible size.
        min: usize,
    },
    /// A recipient that cannot stand in a message header.
    #[error(
        "recipient {recipient:?} cannot stand in a harmony header: it is empty, longer than {max} bytes, or holds spaces or control characters"
    )]
    InvalidRecipient {
        /// The recipient as declared.
        recipient: String,
        /// The longest allowed recipient, in bytes.
        max: usize,
    },
    /// The options of an envelope leave the model no message that could end the turn.
    #[error("the envelope allows neither a final message nor a call, so a turn could never end")]
    EmptyEnvelope,
    /// A grammar or schema that is too long to be compiled.
    #[error("the grammar has {len} bytes, the most is {max}")]
    GrammarTooLong {
        /// Its length.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// A grammar or schema that is malformed, that cannot be expressed, or that has no text at all.
    #[error("{reason}")]
    Grammar {
        /// The library's reason.
        reason: String,
    },
}
