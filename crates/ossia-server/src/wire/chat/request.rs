//! The body of `POST /v1/chat/completions`.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::ChatMessage;
use crate::wire::content::Content;
use crate::wire::poly::{TextOrList, TextOrObject};

/// Every field of OpenAI's document, then the extensions that users bring from other servers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    pub messages: Option<Vec<ChatMessage>>,
    pub model: Option<String>,
    pub audio: Option<Value>,
    pub frequency_penalty: Option<f64>,
    /// Deprecated form of `tool_choice`.
    pub function_call: Option<TextOrObject<ToolName>>,
    /// Deprecated form of `tools`.
    pub functions: Option<Vec<FunctionObject>>,
    pub logit_bias: Option<HashMap<String, f64>>,
    pub logprobs: Option<bool>,
    pub max_completion_tokens: Option<i64>,
    pub max_tokens: Option<i64>,
    pub metadata: Option<Map<String, Value>>,
    pub modalities: Option<Vec<String>>,
    pub moderation: Option<Value>,
    pub n: Option<i64>,
    pub parallel_tool_calls: Option<bool>,
    pub prediction: Option<Prediction>,
    pub presence_penalty: Option<f64>,
    pub prompt_cache_key: Option<String>,
    pub prompt_cache_retention: Option<String>,
    pub prompt_cache_options: Option<Value>,
    pub reasoning_effort: Option<String>,
    pub response_format: Option<ResponseFormat>,
    pub safety_identifier: Option<String>,
    pub seed: Option<i64>,
    pub service_tier: Option<String>,
    pub stop: Option<TextOrList<String>>,
    pub store: Option<bool>,
    pub stream: Option<bool>,
    pub stream_options: Option<StreamOptions>,
    pub temperature: Option<f64>,
    pub tool_choice: Option<ChatToolChoice>,
    pub tools: Option<Vec<ChatTool>>,
    pub top_logprobs: Option<i64>,
    pub top_p: Option<f64>,
    pub user: Option<String>,
    pub verbosity: Option<String>,
    pub web_search_options: Option<Value>,

    pub cache_salt: Option<String>,
    pub chat_template_kwargs: Option<ChatTemplateKwargs>,
    pub ignore_eos: Option<bool>,
    pub include_reasoning: Option<bool>,
    pub max_reasoning_tokens: Option<i64>,
    pub min_p: Option<f64>,
    pub min_tokens: Option<i64>,
    pub priority: Option<i32>,
    pub reasoning: Option<ChatReasoning>,
    pub repetition_penalty: Option<f64>,
    pub stop_token_ids: Option<Vec<u32>>,
    pub thinking_token_budget: Option<i64>,
    pub top_k: Option<i64>,
}

/// `stream_options`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    pub include_usage: Option<bool>,
    pub include_obfuscation: Option<bool>,
}

/// `prediction`; `type` is `content`.
#[derive(Debug, Clone, Deserialize)]
pub struct Prediction {
    #[serde(rename = "type")]
    pub kind: String,
    pub content: Content,
}

/// `response_format`; `type` is `text`, `json_object` or `json_schema`.
#[derive(Debug, Clone, Deserialize)]
pub struct ResponseFormat {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub json_schema: Option<JsonSchemaFormat>,
}

/// `response_format.json_schema`.
#[derive(Debug, Clone, Deserialize)]
pub struct JsonSchemaFormat {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub schema: Option<Value>,
    #[serde(default)]
    pub strict: Option<bool>,
}

/// One entry of `tools`; `type` is `function` or `custom`.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatTool {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub function: Option<FunctionObject>,
    #[serde(default)]
    pub custom: Option<CustomObject>,
}

/// The declaration of a tool that takes text.
#[derive(Debug, Clone, Deserialize)]
pub struct CustomObject {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub format: Option<CustomObjectFormat>,
}

/// `format` of a custom tool; `type` is `text` or `grammar`.
#[derive(Debug, Clone, Deserialize)]
pub struct CustomObjectFormat {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub grammar: Option<CustomGrammar>,
}

/// `format.grammar` of a custom tool; `syntax` is `lark` or `regex`.
#[derive(Debug, Clone, Deserialize)]
pub struct CustomGrammar {
    pub syntax: String,
    pub definition: String,
}

/// A function's declaration.
#[derive(Debug, Clone, Deserialize)]
pub struct FunctionObject {
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub parameters: Option<Value>,
    #[serde(default)]
    pub strict: Option<bool>,
}

/// `tool_choice`: a mode, or an object.
pub type ChatToolChoice = TextOrObject<ChatToolChoiceObject>;

/// `tool_choice` as an object: a named function, a named custom tool, or `allowed_tools`.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatToolChoiceObject {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub function: Option<ToolName>,
    #[serde(default)]
    pub custom: Option<ToolName>,
    #[serde(default)]
    pub allowed_tools: Option<AllowedTools>,
}

/// `{"name": ...}`.
#[derive(Debug, Clone, Deserialize)]
pub struct ToolName {
    pub name: String,
}

/// `tool_choice.allowed_tools`.
#[derive(Debug, Clone, Deserialize)]
pub struct AllowedTools {
    pub mode: String,
    pub tools: Vec<AllowedTool>,
}

/// One entry of `allowed_tools.tools`.
#[derive(Debug, Clone, Deserialize)]
pub struct AllowedTool {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub function: Option<ToolName>,
    #[serde(default)]
    pub custom: Option<ToolName>,
}

/// `reasoning`: how many tokens the model may think.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ChatReasoning {
    pub max_tokens: Option<i64>,
}

/// Template variables as vLLM's users pass them; only the effort has a meaning here.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ChatTemplateKwargs {
    pub reasoning_effort: Option<String>,
}
