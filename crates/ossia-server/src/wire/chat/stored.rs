//! Chat completions that were stored.

use serde::Serialize;

use super::{ChatMessage, ChatRole, ToolCall};
use crate::wire::content::{Content, ContentPart};

/// A message of the request, as it is listed later: with an id, and its text apart from its parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StoredMessage {
    pub id: String,
    pub role: ChatRole,
    pub content: Option<String>,
    pub content_parts: Option<Vec<ContentPart>>,
    pub refusal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
}

impl StoredMessage {
    /// The message under an id of its own.
    pub fn new(id: String, message: &ChatMessage) -> Self {
        let (content, content_parts) = match &message.content {
            None => (None, None),
            Some(Content::Text(text)) => (Some(text.clone()), None),
            Some(Content::List(parts)) => {
                let text = parts.iter().filter_map(|part| part.text.as_deref()).collect();
                (Some(text), Some(parts.clone()))
            }
        };
        Self {
            id,
            role: message.role,
            content,
            content_parts,
            refusal: message.refusal.clone(),
            name: message.name.clone(),
            tool_calls: message.tool_calls.clone(),
            tool_call_id: message.tool_call_id.clone(),
            reasoning: message.reasoning.clone().or_else(|| message.reasoning_content.clone()),
        }
    }
}
