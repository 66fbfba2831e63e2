//! `/v1/conversations`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::responses::InputItem;

/// The body of `POST /v1/conversations`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CreateConversation {
    pub metadata: Option<Map<String, Value>>,
    pub items: Option<Vec<InputItem>>,
}

/// The body of `POST /v1/conversations/{id}` and of `POST /v1/chat/completions/{id}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct UpdateMetadata {
    pub metadata: Option<Map<String, Value>>,
}

/// The body of `POST /v1/conversations/{id}/items`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct CreateItems {
    pub items: Option<Vec<InputItem>>,
}

/// `conversation`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Conversation {
    pub id: String,
    pub object: &'static str,
    pub created_at: u64,
    pub metadata: Map<String, Value>,
}

/// The answer to a `DELETE` of a conversation or of a stored completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Deleted {
    pub id: String,
    pub object: &'static str,
    pub deleted: bool,
}
