//! What a prompt is made of: a system message, a developer message and the messages of the dialogue.

mod builtin;
mod developer;
mod message;
mod system;

pub use developer::{DeveloperContent, FunctionTool, ResponseFormat, ToolNamespace};
pub use message::{Author, CONSTRAIN_JSON, Channel, Message, Role};
pub use system::{
    BuiltinTool, DEFAULT_KNOWLEDGE_CUTOFF, DEFAULT_MODEL_IDENTITY, ReasoningEffort, SystemContent,
};

/// A whole conversation. Rendered by [`Conversation::render_prompt`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// The system message; always rendered, first.
    pub system: SystemContent,
    /// The developer message; rendered second, left out when it is empty.
    pub developer: DeveloperContent,
    /// The dialogue, oldest first.
    pub messages: Vec<Message>,
}
