//! Message content as clients send it, in both APIs: a string or typed parts.

use serde::{Deserialize, Serialize};

use super::poly::TextOrList;

/// The content of an input message.
pub type Content = TextOrList<ContentPart>;

/// One part; which fields count depends on `type` (`text`, `input_text`, `output_text`, `refusal`,
/// `reasoning_text`, `summary_text`, or a kind that a text model refuses).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContentPart {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}
