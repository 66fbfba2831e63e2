//! The response object. Every key that OpenAI sends is sent; `null` where there is nothing to say.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{ConversationRef, OutputItem, Reasoning, ResponseTool, TextConfig, ToolChoice};
use crate::wire::usage::ResponseUsage;

/// `response`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Response {
    pub id: String,
    pub object: &'static str,
    pub created_at: u64,
    pub status: ResponseStatus,
    pub background: bool,
    pub completed_at: Option<u64>,
    pub conversation: Option<ConversationRef>,
    pub error: Option<ResponseError>,
    pub incomplete_details: Option<IncompleteDetails>,
    pub instructions: Option<String>,
    pub max_output_tokens: Option<i64>,
    pub max_tool_calls: Option<i64>,
    pub metadata: Map<String, Value>,
    pub model: String,
    pub output: Vec<OutputItem>,
    pub parallel_tool_calls: bool,
    pub frequency_penalty: f64,
    pub presence_penalty: f64,
    pub previous_response_id: Option<String>,
    pub prompt: Option<Value>,
    pub prompt_cache_key: Option<String>,
    pub prompt_cache_retention: Option<String>,
    pub reasoning: Reasoning,
    pub safety_identifier: Option<String>,
    pub service_tier: &'static str,
    pub store: bool,
    pub temperature: f64,
    pub text: TextConfig,
    pub tool_choice: ToolChoice,
    pub tools: Vec<ResponseTool>,
    pub top_logprobs: i64,
    pub top_p: f64,
    pub truncation: String,
    pub usage: Option<ResponseUsage>,
    /// Deprecated and not nullable in the document: sent only when the request had it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseStatus {
    Queued,
    InProgress,
    Completed,
    Incomplete,
    Cancelled,
    Failed,
}

/// Why a response failed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResponseError {
    pub code: &'static str,
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IncompleteDetails {
    pub reason: &'static str,
}

/// The answer to a `DELETE`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeletedResponse {
    pub id: String,
    pub object: &'static str,
    pub deleted: bool,
}

/// The answer of `POST /v1/responses/compact`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compaction {
    pub id: String,
    pub object: &'static str,
    pub created_at: u64,
    pub output: Vec<Value>,
    pub usage: ResponseUsage,
}

/// The answer of `POST /v1/responses/input_tokens`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputTokens {
    pub object: &'static str,
    pub input_tokens: usize,
}
