//! From wire JSON to a checked request: after this nothing can fail for the client's fault, except that the
//! prompt turns out too long.

pub(crate) mod chat;
mod chat_functions;
mod chat_messages;
mod chat_tools;
pub(crate) mod check;
pub(crate) mod completions;
mod content;
mod dialogue;
pub(crate) mod echo;
mod effort;
mod format;
pub(crate) mod items;
mod response_tools;
pub(crate) mod responses;
mod sampling;
mod tools;

use ossia_engine::SamplingParams;
use ossia_harmony::{Conversation, GrammarScope, GrammarSource};

use crate::turn::Callable;

/// What either API asks of the engine.
#[derive(Debug, Clone)]
pub(crate) struct TurnPlan {
    /// The field that holds the prompt: `messages` or `input`.
    pub(crate) prompt_param: &'static str,
    /// Drop the oldest turns of a prompt that is too long, in place of refusing it.
    pub(crate) truncate: bool,
    pub(crate) conversation: Conversation,
    /// Start the turn with an empty analysis.
    pub(crate) skip_analysis: bool,
    /// Most tokens of thought, at least one.
    pub(crate) max_reasoning_tokens: Option<usize>,
    pub(crate) sampling: SamplingParams,
    /// Most tokens to generate; `None` is what the context leaves.
    pub(crate) max_tokens: Option<usize>,
    /// Texts that end the answer.
    pub(crate) stop: Vec<String>,
    /// Token ids that end the answer besides harmony's own.
    pub(crate) stop_token_ids: Vec<u32>,
    /// The tools that may be called.
    pub(crate) callable: Vec<Callable>,
    /// What the content of messages is held to.
    pub(crate) rules: Vec<ContentRule>,
    /// Whether there has to be a call, and whether there may be several.
    pub(crate) call_required: bool,
    pub(crate) parallel_calls: bool,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<String>,
}

/// What the content of some messages is held to; compiled when the turn starts.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ContentRule {
    /// The messages.
    pub(crate) scope: GrammarScope,
    pub(crate) source: GrammarSource,
    /// The field that the source came from.
    pub(crate) param: String,
    /// What they are held to if `source` cannot be compiled; without it that is an error.
    pub(crate) fallback: Option<GrammarSource>,
}
