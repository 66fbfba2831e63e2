//! From wire JSON to a checked request: after this nothing can fail for the client's fault, except that the
//! prompt turns out too long.

pub(crate) mod chat;
mod chat_messages;
pub(crate) mod check;
mod content;
mod dialogue;
pub(crate) mod echo;
mod effort;
pub(crate) mod items;
pub(crate) mod responses;
mod sampling;
mod tools;

use ossia_engine::SamplingParams;
use ossia_harmony::Conversation;

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
    pub(crate) sampling: SamplingParams,
    /// Most tokens to generate; `None` is what the context leaves.
    pub(crate) max_tokens: Option<usize>,
    /// Texts that end the answer.
    pub(crate) stop: Vec<String>,
    /// Token ids that end the answer besides harmony's own.
    pub(crate) stop_token_ids: Vec<u32>,
    /// Names of the functions that may be called.
    pub(crate) callable: Vec<String>,
    /// Whether the turn has to end with a call.
    pub(crate) call_required: bool,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<String>,
}
