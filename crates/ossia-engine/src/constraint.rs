//! The seam to grammars: which tokens may come next.

/// The tokens that may come next. Ids outside the vocabulary are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowedTokens<'a> {
    /// Every token.
    All,
    /// Every token but these.
    Except(&'a [u32]),
    /// These tokens only.
    Only(&'a [u32]),
    /// Token `t` is allowed when bit `t % 32` of word `t / 32` is set; tokens past the last word are not.
    Bitmask(&'a [u32]),
}

/// A language over token ids that a generation must stay in, advanced token by token.
///
/// The engine calls `allowed` at least once before each sampled token and `accept` once with the token it chose,
/// stop tokens included. A preempted sequence is recomputed without calling either again.
pub trait TokenConstraint: Send {
    /// Whether `prepare` has work that is worth another thread.
    fn wants_to_prepare(&self) -> bool {
        false
    }

    /// Computes ahead what `allowed` will say. Called while the model computes the logits, if it is wanted.
    fn prepare(&mut self) {}

    /// The tokens that may come next. When none of them is possible the request ends as failed.
    fn allowed(&mut self) -> AllowedTokens<'_>;

    /// Takes note of the token that was generated.
    fn accept(&mut self, token: u32);
}
