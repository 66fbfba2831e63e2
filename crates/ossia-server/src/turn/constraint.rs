//! The grammar of a turn as the engine's token constraint: malformed output cannot be sampled.

use ossia_engine::{AllowedTokens, TokenConstraint};
use ossia_harmony::{Allowed, TurnGrammar};

/// The grammar of one turn.
pub(crate) struct TurnConstraint {
    grammar: TurnGrammar,
    has_failed: bool,
}

impl TurnConstraint {
    /// The constraint at the beginning of a turn.
    pub(crate) fn new(grammar: TurnGrammar) -> Self {
        Self { grammar, has_failed: false }
    }
}

impl TokenConstraint for TurnConstraint {
    fn wants_to_prepare(&self) -> bool {
        self.grammar.wants_to_prepare()
    }

    fn prepare(&mut self) {
        self.grammar.prepare();
    }

    fn allowed(&mut self) -> AllowedTokens<'_> {
        match self.grammar.allowed() {
            Allowed::All => AllowedTokens::All,
            Allowed::Except(ids) => AllowedTokens::Except(ids),
            Allowed::Only(ids) => AllowedTokens::Only(ids),
            Allowed::Bitmask(words) => AllowedTokens::Bitmask(words),
        }
    }

    fn accept(&mut self, token: u32) {
        self.grammar.accept(token);
        if !self.has_failed
            && let Some(reason) = self.grammar.failure()
        {
            self.has_failed = true;
            tracing::warn!(reason, "a grammar exceeded its limits; the rest of the message is free");
        }
    }
}
