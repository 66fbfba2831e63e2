//! A line of the audit log.

use serde::Serialize;

/// Who asked for what, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct AuditRecord<'a> {
    /// When the request was over, RFC 3339 in UTC.
    pub time: String,
    /// `x-request-id` of the request.
    pub request_id: &'a str,
    /// The id of the API key, or the subject of the token.
    pub key: &'a str,
    pub tenant: &'a str,
    /// Method and route.
    pub request: &'a str,
    /// The HTTP status, for requests that did not generate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The model, for requests that generated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<&'a str>,
    pub prompt_tokens: usize,
    pub cached_tokens: usize,
    pub completion_tokens: usize,
    /// How each of its turns ended: `stop`, `length`, `error`, `abort`; or `refused`.
    pub outcome: Vec<&'static str>,
    pub duration_ms: u64,
    /// As the model saw it, if the log has contents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<&'a str>,
    /// As the model wrote them, if the log has contents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<String>,
}
