//! A compiled grammar, and its way through the content of one message.

use std::fmt;
use std::sync::Arc;

use llguidance::Matcher;

use super::compiler::grammar_error;
use crate::Allowed;

/// A compiled grammar for the content of a message. Cheap to clone.
#[derive(Clone)]
pub struct ContentGrammar {
    prototype: Arc<Matcher>,
    /// The token that stands for the end in llguidance's masks.
    end_of_text: u32,
}

impl ContentGrammar {
    pub(super) fn new(prototype: Matcher, end_of_text: u32) -> Self {
        Self { prototype: Arc::new(prototype), end_of_text }
    }

    /// A matcher at the beginning of a message that ends with one of the tokens `ends`, which ascend.
    pub(super) fn matcher(&self, ends: &[u32]) -> ContentMatcher {
        ContentMatcher {
            matcher: self.prototype.deep_clone(),
            end_of_text: self.end_of_text,
            ends: ends.to_vec(),
            mask: Vec::new(),
            next: Next::Unknown,
            failure: None,
        }
    }
}

impl fmt::Debug for ContentGrammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentGrammar").finish_non_exhaustive()
    }
}

/// Follows the content of one message.
pub(super) struct ContentMatcher {
    matcher: Matcher,
    end_of_text: u32,
    ends: Vec<u32>,
    mask: Vec<u32>,
    next: Next,
    failure: Option<String>,
}

/// What is known of the next token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Unknown,
    /// It is one of those in `mask`.
    Bitmask,
    /// It ends the content.
    End,
    /// The grammar has failed.
    Failed,
}

impl ContentMatcher {
    /// The tokens that may come next; the end tokens are among them exactly when the content may be over. `None`
    /// once the grammar has failed.
    pub(super) fn allowed(&mut self) -> Option<Allowed<'_>> {
        self.prepare();
        match self.next {
            Next::Failed => None,
            Next::Bitmask => Some(Allowed::Bitmask(&self.mask)),
            Next::Unknown | Next::End => Some(Allowed::Only(&self.ends)),
        }
    }

    /// Whether it is known what may come next.
    pub(super) fn is_ready(&self) -> bool {
        self.next != Next::Unknown
    }

    /// Finds out what may come next.
    pub(super) fn prepare(&mut self) {
        if self.next == Next::Unknown {
            self.next = self.find_next();
        }
    }

    fn find_next(&mut self) -> Next {
        if self.failure.is_some() {
            return Next::Failed;
        }
        if self.matcher.is_stopped() && self.matcher.stop_reason().is_ok() {
            return Next::End;
        }
        match self.matcher.compute_mask() {
            Ok(mask) => {
                self.mask = mask.into();
                let may_end = take_bit(&mut self.mask, self.end_of_text);
                self.ends.iter().for_each(|&end| put_bit(&mut self.mask, end, may_end));
                Next::Bitmask
            }
            Err(error) => {
                self.failure = Some(grammar_error(&error).to_string());
                Next::Failed
            }
        }
    }

    /// Takes a token of the content.
    pub(super) fn accept(&mut self, token: u32) {
        self.next = Next::Unknown;
        if self.failure.is_none()
            && let Err(error) = self.matcher.consume_token(token)
        {
            self.failure = Some(grammar_error(&error).to_string());
        }
    }

    /// Why the grammar stopped to hold, if it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }
}

impl Clone for ContentMatcher {
    fn clone(&self) -> Self {
        Self {
            matcher: self.matcher.deep_clone(),
            end_of_text: self.end_of_text,
            ends: self.ends.clone(),
            mask: self.mask.clone(),
            next: self.next,
            failure: self.failure.clone(),
        }
    }
}

impl fmt::Debug for ContentMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContentMatcher").field("failure", &self.failure).finish_non_exhaustive()
    }
}

/// Clears the bit of `token` and says whether it was set.
fn take_bit(mask: &mut [u32], token: u32) -> bool {
    let Some(word) = mask.get_mut(token as usize / 32) else { return false };
    let bit = 1 << (token % 32);
    let was_set = *word & bit != 0;
    *word &= !bit;
    was_set
}

fn put_bit(mask: &mut [u32], token: u32, value: bool) {
    if let Some(word) = mask.get_mut(token as usize / 32) {
        let bit = 1 << (token % 32);
        *word = if value { *word | bit } else { *word & !bit };
    }
}
