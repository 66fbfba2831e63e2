//! Compiling content grammars for one vocabulary.

use std::fmt;
use std::sync::Arc;

use llguidance::api::ParserLimits;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use super::{ContentGrammar, GrammarSource};
use crate::{HarmonyError, SpecialToken, Tokenizer};

/// Longest reason of a grammar's failure that is passed on, in characters.
const MAX_REASON_LEN: usize = 400;

/// Compiles grammars. One per tokenizer: building it reads the whole vocabulary.
pub struct GrammarCompiler {
    factory: ParserFactory,
}

impl GrammarCompiler {
    /// A compiler for this vocabulary.
    ///
    /// # Errors
    /// If llguidance cannot use the vocabulary.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, HarmonyError> {
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie(tokenizer)));
        let mut factory = ParserFactory::new_simple(&env).map_err(|error| grammar_error(&error))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self { factory })
    }

    /// Compiles a grammar. Takes milliseconds to some tenths of a second, bounded by fixed limits.
    ///
    /// # Errors
    /// If the source is too long, is malformed, cannot be expressed, or has no text at all.
    pub fn compile(&self, source: &GrammarSource) -> Result<ContentGrammar, HarmonyError> {
        let parser = self.factory.create_parser(source.to_llguidance()?);
        let mut matcher = Matcher::new(Ok(parser.map_err(|error| grammar_error(&error))?));
        // Shows a grammar without any text now, and fills the tables that each turn begins with.
        matcher.compute_mask().map_err(|error| grammar_error(&error))?;
        Ok(ContentGrammar::new(matcher, self.factory.tok_env().eos_token()))
    }
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

/// Bounds on what a client's grammar may cost. A lexer state takes 1 to 2 kB, so that a turn stays below 64 MB;
/// initial fuel is spent at some 50,000 a millisecond, a step's at 14,000.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 2_000,
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 200_000,
        step_max_items: 50_000,
        max_lexer_states: 32_000,
        max_grammar_size: 250_000,
        precompute_large_lexemes: true,
        verbose_errors: false,
    }
}

/// The vocabulary as a trie. Special tokens are left out, so that no grammar can name one, but for
/// `<|endoftext|>`, which stands for the end of the content.
fn trie(tokenizer: &Tokenizer) -> TokTrie {
    let end_of_text = tokenizer.special(SpecialToken::EndOfText);
    let bytes = |id: u32| {
        if id == end_of_text {
            return [&[TokTrie::SPECIAL_TOKEN_MARKER], tokenizer.token_bytes(id)].concat();
        }
        if tokenizer.vocab().is_control(id) { Vec::new() } else { tokenizer.token_bytes(id).to_vec() }
    };
    let vocab_size = tokenizer.vocab_size() as u32;
    let words: Vec<Vec<u8>> = (0..vocab_size).map(bytes).collect();
    TokTrie::from(&TokRxInfo::new(vocab_size, end_of_text), &words)
}

/// The first lines of llguidance's reason; a panic's backtrace is nobody's business.
pub(super) fn grammar_error(error: &impl fmt::Display) -> HarmonyError {
    let text = error.to_string();
    let text = text.split("<backtrace>").next().unwrap_or_default();
    let words: Vec<&str> = text.split_whitespace().collect();
    HarmonyError::Grammar { reason: words.join(" ").chars().take(MAX_REASON_LEN).collect() }
}
