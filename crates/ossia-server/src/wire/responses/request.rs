//! The body of `POST /v1/responses`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{InputItem, ResponseTool, ToolChoice};
use crate::wire::poly::{TextOrList, TextOrObject};

/// `conversation`: an id, or an object with one.
pub type ConversationParam = TextOrObject<ConversationRef>;

/// `{"id": ...}`, in a request and in the response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConversationRef {
    pub id: String,
}

/// `input`: the user's text, or items.
pub type ResponseInput = TextOrList<InputItem>;

/// Every field of OpenAI's document, then the extensions that users bring from other servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResponseRequest {
    pub background: Option<bool>,
    pub context_management: Option<Value>,
    pub conversation: Option<ConversationParam>,
    pub include: Option<Vec<String>>,
    pub input: Option<ResponseInput>,
    pub instructions: Option<String>,
    pub max_output_tokens: Option<i64>,
    pub max_tool_calls: Option<i64>,
    pub metadata: Option<Map<String, Value>>,
    pub model: Option<String>,
    pub moderation: Option<Value>,
    pub parallel_tool_calls: Option<bool>,
    pub previous_response_id: Option<String>,
    pub prompt: Option<Value>,
    pub prompt_cache_key: Option<String>,
    pub prompt_cache_options: Option<Value>,
    pub prompt_cache_retention: Option<String>,
    pub reasoning: Option<Reasoning>,
    pub safety_identifier: Option<String>,
    pub service_tier: Option<String>,
    pub store: Option<bool>,
    pub stream: Option<bool>,
    pub stream_options: Option<ResponseStreamOptions>,
    pub temperature: Option<f64>,
    pub text: Option<TextConfig>,
    pub tool_choice: Option<ToolChoice>,
    pub tools: Option<Vec<ResponseTool>>,
    pub top_logprobs: Option<i64>,
    pub top_p: Option<f64>,
    pub truncation: Option<String>,
    pub user: Option<String>,

    pub cache_salt: Option<String>,
    pub frequency_penalty: Option<f64>,
    pub min_p: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub priority: Option<i32>,
    pub repetition_penalty: Option<f64>,
    pub seed: Option<i64>,
    pub top_k: Option<i64>,
}

/// `stream_options`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResponseStreamOptions {
    pub include_obfuscation: Option<bool>,
}

/// `reasoning`, echoed in the response with `effort` and `summary` always present.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reasoning {
    pub effort: Option<String>,
    pub summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate_summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// Extension: most tokens of thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<i64>,
}

/// `text`, echoed in the response with its defaults filled in.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TextConfig {
    pub format: Option<TextFormat>,
    pub verbosity: Option<String>,
}

/// `text.format`; `type` is `text`, `json_object` or `json_schema`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TextFormat {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Query of `GET /v1/responses/{id}`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct RetrieveQuery {
    pub stream: Option<bool>,
    pub starting_after: Option<u64>,
    pub include_obfuscation: Option<bool>,
}
