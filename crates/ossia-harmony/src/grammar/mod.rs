//! One grammar over the whole turn: the envelope of headers, and inside messages the grammar of their content.
//!
//! The envelope costs a comparison per token; a content grammar costs a mask over the vocabulary, and only inside
//! the messages that it is for. Reasoning stays free, whatever the answer is held to.

mod compiler;
mod content;
mod source;

pub use compiler::GrammarCompiler;
pub use content::ContentGrammar;
pub use source::GrammarSource;

use content::ContentMatcher;

use crate::{Allowed, EnvelopeGrammar, Scope};

/// The messages that a content grammar is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GrammarScope {
    /// The answer.
    Final,
    /// Calls to this recipient.
    Call(String),
}

/// The language of one turn over token ids.
#[derive(Clone, Debug)]
pub struct TurnGrammar {
    envelope: EnvelopeGrammar,
    contents: Vec<(GrammarScope, ContentGrammar)>,
    /// The grammar of the message under way.
    matcher: Option<ContentMatcher>,
    /// Tokens of thought that are left.
    thought_left: usize,
    failure: Option<String>,
}

impl TurnGrammar {
    /// The grammar at the point where `envelope` stands, outside of any message's content. `contents` hold the
    /// content of some messages to grammars.
    pub fn new(envelope: EnvelopeGrammar, contents: Vec<(GrammarScope, ContentGrammar)>) -> Self {
        Self { envelope, contents, matcher: None, thought_left: usize::MAX, failure: None }
    }

    /// Closes the chain of thought after this many tokens, over all its messages; at least one.
    #[must_use]
    pub fn with_max_reasoning_tokens(self, max: usize) -> Self {
        Self { thought_left: max.max(1), ..self }
    }

    /// Whether [`Self::prepare`] has something to compute: a content grammar's mask.
    pub fn wants_to_prepare(&self) -> bool {
        self.matcher.as_ref().is_some_and(|matcher| !matcher.is_ready())
    }

    /// Computes ahead what [`Self::allowed`] will say.
    pub fn prepare(&mut self) {
        self.matcher.iter_mut().for_each(ContentMatcher::prepare);
    }

    /// The tokens that may come next.
    pub fn allowed(&mut self) -> Allowed<'_> {
        match &mut self.matcher {
            Some(matcher) => matcher.allowed().unwrap_or_else(|| self.envelope.allowed()),
            None => self.envelope.allowed(),
        }
    }

    /// Takes the token that came.
    pub fn accept(&mut self, token: u32) {
        let was_inside = is_content(self.envelope.scope());
        self.envelope.accept(token);
        let scope = self.envelope.scope();
        match (was_inside, is_content(scope)) {
            (false, true) => self.matcher = self.start_matcher(),
            (true, true) if scope == Scope::Analysis => self.count_thought(),
            (true, true) => self.matcher.iter_mut().for_each(|matcher| matcher.accept(token)),
            (true, false) => self.end_message(),
            (false, false) => {}
        }
    }

    /// Where in the turn the next token will stand.
    pub fn scope(&self) -> Scope<'_> {
        self.envelope.scope()
    }

    /// Why a content grammar stopped to hold in mid-message, if one did: its limits were exceeded. The rest of that
    /// message is free then, so that the turn still ends.
    pub fn failure(&self) -> Option<&str> {
        let now = self.matcher.as_ref().and_then(ContentMatcher::failure);
        now.or(self.failure.as_deref())
    }

    fn start_matcher(&self) -> Option<ContentMatcher> {
        let is_here = |scope: &GrammarScope| match (scope, self.envelope.scope()) {
            (GrammarScope::Final, Scope::Final) => true,
            (GrammarScope::Call(wanted), Scope::Call(recipient)) => wanted == recipient,
            _ => false,
        };
        let (_, grammar) = self.contents.iter().find(|(scope, _)| is_here(scope))?;
        Some(grammar.matcher(self.envelope.ends()))
    }

    fn count_thought(&mut self) {
        self.thought_left -= 1;
        if self.thought_left == 0 {
            self.envelope.close_analysis();
        }
    }

    fn end_message(&mut self) {
        if let Some(failure) = self.matcher.take().and_then(|matcher| matcher.failure().map(str::to_owned)) {
            self.failure = Some(failure);
        }
    }
}

fn is_content(scope: Scope<'_>) -> bool {
    matches!(scope, Scope::Analysis | Scope::Preamble | Scope::Final | Scope::Call(_))
}
