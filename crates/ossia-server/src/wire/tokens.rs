//! `/tokenize`, `/detokenize` and rendered requests, in the shapes that vLLM's users know.

use serde::{Deserialize, Serialize};

/// Text to tokenize.
#[derive(Debug, Clone, Deserialize)]
pub struct TokenizeText {
    #[serde(default)]
    pub model: Option<String>,
    pub prompt: String,
    #[serde(default)]
    pub return_token_strs: Option<bool>,
}

/// What `/tokenize` takes beside the fields of a chat request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct TokenizeChat {
    pub return_token_strs: Option<bool>,
    pub add_generation_prompt: Option<bool>,
    pub continue_final_message: Option<bool>,
}

/// The tokens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tokenized {
    pub count: usize,
    pub max_model_len: usize,
    pub tokens: Vec<u32>,
    pub token_strs: Option<Vec<String>>,
}

/// Tokens to turn back into text.
#[derive(Debug, Clone, Deserialize)]
pub struct DetokenizeRequest {
    #[serde(default)]
    pub model: Option<String>,
    pub tokens: Vec<serde_json::Value>,
}

/// The text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Detokenized {
    pub prompt: String,
}

/// A chat request as the model would see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rendered {
    pub request_id: String,
    pub model: String,
    pub token_ids: Vec<u32>,
    /// The same as text, special tokens spelled out.
    pub prompt: String,
}
