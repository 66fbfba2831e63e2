//! The harmony prompt format: tokenizer, render, total streaming parser, envelope grammar.
mod conversation;
mod envelope;
mod error;
mod parser;
mod render;
mod special;
mod tokenizer;

pub use conversation::{
    Author, BuiltinTool, CONSTRAIN_JSON, Channel, Conversation, DEFAULT_KNOWLEDGE_CUTOFF,
    DEFAULT_MODEL_IDENTITY, DeveloperContent, FunctionTool, Message, ReasoningEffort, ResponseFormat, Role,
    SystemContent, ToolNamespace,
};
pub use envelope::{Allowed, EnvelopeGrammar, EnvelopeOptions, Scope};
pub use error::HarmonyError;
pub use parser::{EndReason, Header, MessageEnd, ParserEvent, StreamableParser};
pub use special::SpecialToken;
pub use tokenizer::{Detokenizer, Tokenizer};
