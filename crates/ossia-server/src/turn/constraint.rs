//! The envelope grammar as the engine's token constraint: malformed headers cannot be sampled.

use ossia_engine::{AllowedTokens, TokenConstraint};
use ossia_harmony::{Allowed, EnvelopeGrammar};

/// The grammar of one turn.
pub(crate) struct EnvelopeConstraint(pub(crate) EnvelopeGrammar);

impl TokenConstraint for EnvelopeConstraint {
    fn allowed(&mut self) -> AllowedTokens<'_> {
        match self.0.allowed() {
            Allowed::All => AllowedTokens::All,
            Allowed::Except(ids) => AllowedTokens::Except(ids),
            Allowed::Only(ids) => AllowedTokens::Only(ids),
        }
    }

    fn accept(&mut self, token: u32) {
        self.0.accept(token);
    }
}
