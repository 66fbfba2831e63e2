//! A model runner that answers by rule, for testing clients and the HTTP layer without a model.
//!
//! [`ScriptedRunner`] stands behind the same seam as the model: it sees batches of token ids and block tables, keeps
//! the ids in a cache of blocks where a model keeps keys and values, and answers with logits. What it says is a
//! function of the context that it reads back from those blocks, so a paging error shows as a wrong answer.
//!
//! # Rules
//! A rules file is a JSON list. The first rule whose `pattern` occurs in the last user message is played:
//! ```json
//! [
//!   {"pattern": "ping", "text": "pong"},
//!   {"pattern": "think", "text": "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Done.<|return|>"},
//!   {"pattern": "slow", "text": "one two three", "delay_ms": 200},
//!   {"pattern": "", "tokens": [200005, 17196, 200008, 13225, 200002]}
//! ]
//! ```
//! * `pattern`: plain text, case matters; the empty pattern always matches.
//! * `text`: harmony as it follows `<|start|>assistant`, special tokens included. Text without a special token is a
//!   final message.
//! * `after_tools`: `true` plays the rule only once tools have answered the last user message, `false` only before.
//! * `tokens`: token ids, in place of `text`.
//! * `delay_ms`: milliseconds per token, in place of the runner's.
//!
//! # Without a matching rule
//! A tool result after the last user message: a final text that quotes it. Tools declared: a call of the first one,
//! with arguments shaped by its declaration. Otherwise a short analysis and a final text that quotes the user.
//! Where the sampler's mask forbids the first choice (`tool_choice`, no analysis), the next possible one is taken.

mod context;
mod declarations;
mod error;
mod plays;
mod rules;
mod runner;

pub use error::ScriptedError;
pub use rules::{Rule, Rules, Script};
pub use runner::{ScriptedOptions, ScriptedRunner};
