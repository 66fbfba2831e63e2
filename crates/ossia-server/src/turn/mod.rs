//! A turn of the model: from a checked request to a stream of typed events that both APIs build theirs from.

mod builder;
mod choices;
mod constraint;
mod grammars;
mod meter;
mod raw;
mod reader;
mod run;
mod stop;
#[cfg(test)]
mod tests;
mod truncate;

pub(crate) use builder::TurnBuilder;
pub(crate) use choices::Choices;
pub(crate) use grammars::Grammars;
pub(crate) use raw::RawStarter;
pub(crate) use run::{Turn, TurnStarter, prompt_of, render};

use crate::wire::logprobs::TokenLogprob;

/// What happens in a turn: `Started`, then parts one after the other, then `Finished`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TurnEvent {
    /// The engine took the request up.
    Started,
    /// A part begins.
    PartStart(PartKind),
    /// More text of the part; `logprobs` are of the tokens that the text came from.
    Delta { text: String, logprobs: Vec<TokenLogprob> },
    /// The part is over; not `complete` if it was cut.
    PartEnd { complete: bool },
    /// The last event.
    Finished(TurnEnd),
}

/// What a part of a turn is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PartKind {
    /// Chain of thought.
    Reasoning,
    /// A word to the user before a call.
    Preamble,
    /// The answer.
    Answer,
    /// A call of a tool.
    Call(Callable),
}

/// A tool that the model may call, by the names that the model and the client have for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Callable {
    /// In the header of a call.
    pub(crate) recipient: String,
    /// The client's namespace; absent for `functions`.
    pub(crate) namespace: Option<String>,
    /// The client's name.
    pub(crate) name: String,
    /// Whether it takes text instead of JSON.
    pub(crate) custom: bool,
}

impl Callable {
    /// A function that is in no namespace of the client's.
    pub(crate) fn function(name: &str) -> Self {
        Self { recipient: format!("functions.{name}"), namespace: None, name: name.to_owned(), custom: false }
    }
}

/// How a turn ended and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TurnEnd {
    pub(crate) reason: EndReason,
    pub(crate) usage: Usage,
}

/// Why a turn ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// The model finished, or a stop string came.
    Stop,
    /// The model waits for the results of its calls.
    ToolCalls,
    /// No tokens were left.
    Length,
    /// The engine failed; the message says how.
    Failed(String),
}

/// Token counts of a turn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Of these, tokens found in the prefix cache.
    pub(crate) cached_tokens: usize,
    /// All generated tokens, headers and stop tokens included.
    pub(crate) completion_tokens: usize,
    /// Of these, tokens of the text of the chain of thought.
    pub(crate) reasoning_tokens: usize,
}
