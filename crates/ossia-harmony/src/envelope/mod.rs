//! Which tokens may follow, so that only well-formed messages can be sampled.

use crate::{HarmonyError, Tokenizer};

/// What the messages of a turn may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeOptions {
    /// The tools that may be called: `functions.get_weather`, `browser.search`, `python`.
    pub recipients: Vec<String>,
    /// Whether the model may think before it answers.
    pub allow_analysis: bool,
    /// Whether the turn may end in an answer. If not, it must end in a call.
    pub allow_final: bool,
    /// Length of the model's logits, if its vocabulary is padded beyond the tokenizer's.
    pub padded_vocab_size: Option<usize>,
}

impl Default for EnvelopeOptions {
    fn default() -> Self {
        Self { recipients: Vec::new(), allow_analysis: true, allow_final: true, padded_vocab_size: None }
    }
}

/// The tokens that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// Every token.
    All,
    /// Every token but these, in ascending order.
    Except(&'a [u32]),
    /// These only, in ascending order; never empty.
    Only(&'a [u32]),
}

/// The language of headers and message ends over token ids, for one turn.
#[derive(Clone, Debug)]
pub struct EnvelopeGrammar {
    tokenizer: Tokenizer,
}

impl EnvelopeGrammar {
    /// The grammar at the point where the prompt ends, after `<|start|>assistant`.
    ///
    /// # Errors
    /// If a recipient cannot stand in a header, or no turn could end.
    pub fn new(tokenizer: &Tokenizer, options: &EnvelopeOptions) -> Result<Self, HarmonyError> {
        let _ = options;
        Ok(Self { tokenizer: tokenizer.clone() })
    }

    /// The tokens that may come next. Does not allocate.
    pub fn allowed(&self) -> Allowed<'_> {
        let _ = self.tokenizer.vocab_size();
        Allowed::All
    }

    /// Takes the token that came.
    pub fn accept(&mut self, token: u32) {
        let _ = token;
    }
}
