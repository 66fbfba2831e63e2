//! Token counts, in the words of either API.

use serde::Serialize;

/// `usage` of a chat completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionUsage {
    pub prompt_tokens: usize,
    pub completion_tokens: usize,
    pub total_tokens: usize,
    pub prompt_tokens_details: PromptTokensDetails,
    pub completion_tokens_details: CompletionTokensDetails,
}

/// Where the prompt's tokens came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PromptTokensDetails {
    pub cached_tokens: usize,
    pub audio_tokens: usize,
}

/// What the generated tokens were.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionTokensDetails {
    pub reasoning_tokens: usize,
    pub audio_tokens: usize,
    pub accepted_prediction_tokens: usize,
    pub rejected_prediction_tokens: usize,
}

/// `usage` of a response.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResponseUsage {
    pub input_tokens: usize,
    pub input_tokens_details: InputTokensDetails,
    pub output_tokens: usize,
    pub output_tokens_details: OutputTokensDetails,
    pub total_tokens: usize,
}

/// Where the input's tokens came from; `cache_write_tokens` is what the prefix cache had to compute.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputTokensDetails {
    pub cached_tokens: usize,
    pub cache_write_tokens: usize,
}

/// How many of the output's tokens were reasoning.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputTokensDetails {
    pub reasoning_tokens: usize,
}
