//! What can be wrong with rules and with batches.

/// The one error type of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ScriptedError {
    /// The rules are not JSON, or not a list of rules.
    #[error("rules: {0}")]
    Json(#[from] serde_json::Error),
    /// A rule has both or neither of `text` and `tokens`.
    #[error("rules: rule {index} needs either `text` or `tokens`, and not both")]
    Script {
        /// Place in the list, from 0.
        index: usize,
    },
    /// A rule has a token id that the vocabulary does not have.
    #[error("rules: rule {index} has token id {id}, which is not below the vocabulary size {vocab_size}")]
    Token {
        /// Place in the list, from 0.
        index: usize,
        /// The id.
        id: u32,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A batch points outside of the cache.
    #[error("sequence {sequence}: {group} slot {slot} is not below the cache's {num_slots}")]
    Slot {
        /// Place in the batch.
        sequence: usize,
        /// Layer group.
        group: &'static str,
        /// Slot asked for.
        slot: usize,
        /// Slots that exist.
        num_slots: usize,
    },
    /// A block table does not cover a position that a model would read.
    #[error("sequence {sequence}: the {group} block table has no block for position {position}")]
    NoBlock {
        /// Place in the batch.
        sequence: usize,
        /// Layer group.
        group: &'static str,
        /// The position.
        position: usize,
    },
    /// The two layer groups disagree about a token inside the window: a block was overwritten or mixed up.
    #[error(
        "sequence {sequence}: position {position} holds token {full} for full and {sliding} for sliding layers"
    )]
    Mismatch {
        /// Place in the batch.
        sequence: usize,
        /// The position.
        position: usize,
        /// Token in the full-attention blocks.
        full: u32,
        /// Token in the sliding-window blocks.
        sliding: u32,
    },
    /// The batch's vectors do not fit together.
    #[error("malformed batch: {0}")]
    Batch(&'static str),
}
