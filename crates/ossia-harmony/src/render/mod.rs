//! From a conversation to token ids.

use crate::{Conversation, Tokenizer};

impl Conversation {
    /// The prompt: everything said so far, then `<|start|>assistant`.
    pub fn render_prompt(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let _ = tokenizer;
        Vec::new()
    }

    /// The conversation as a training example.
    pub fn render_training(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let _ = tokenizer;
        Vec::new()
    }
}
