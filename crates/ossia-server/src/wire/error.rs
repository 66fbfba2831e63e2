//! The error envelope.

use serde::Serialize;

/// `{"error": {...}}`, the body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorBody {
    pub error: ErrorObject,
}

/// What went wrong; `param` names the field of the request, as a path such as `messages[0].content`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ErrorObject {
    pub message: String,
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub param: Option<String>,
    pub code: Option<&'static str>,
}
