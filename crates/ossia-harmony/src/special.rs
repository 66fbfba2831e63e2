//! The nine special tokens that harmony gives a meaning.

/// A special token of the harmony format. Its id is looked up by its text in each tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SpecialToken {
    /// `<|startoftext|>`: never rendered.
    StartOfText,
    /// `<|endoftext|>`: a stop token.
    EndOfText,
    /// `<|return|>`: ends the turn; a stop token.
    Return,
    /// `<|constrain|>`: stands before the data type of a call's arguments.
    Constrain,
    /// `<|channel|>`: stands before the channel's name.
    Channel,
    /// `<|start|>`: opens a message's header.
    Start,
    /// `<|end|>`: ends a message, not the turn.
    End,
    /// `<|message|>`: ends the header, the content follows.
    Message,
    /// `<|call|>`: ends a message that calls a tool; a stop token.
    Call,
}

impl SpecialToken {
    /// All of them, in the order of their ids in o200k_harmony.
    pub const ALL: [Self; 9] = [
        Self::StartOfText,
        Self::EndOfText,
        Self::Return,
        Self::Constrain,
        Self::Channel,
        Self::Start,
        Self::End,
        Self::Message,
        Self::Call,
    ];

    /// The token's text in every harmony tokenizer.
    pub fn text(self) -> &'static str {
        match self {
            Self::StartOfText => "<|startoftext|>",
            Self::EndOfText => "<|endoftext|>",
            Self::Return => "<|return|>",
            Self::Constrain => "<|constrain|>",
            Self::Channel => "<|channel|>",
            Self::Start => "<|start|>",
            Self::End => "<|end|>",
            Self::Message => "<|message|>",
            Self::Call => "<|call|>",
        }
    }

    /// Whether this token ends a turn, so that sampling stops after it.
    pub fn is_stop(self) -> bool {
        matches!(self, Self::Return | Self::Call | Self::EndOfText)
    }
}
