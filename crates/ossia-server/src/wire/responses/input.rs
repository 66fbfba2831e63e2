//! Input items of a response request.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{OutputContent, OutputItem};
use crate::ids::new_id;
use crate::wire::content::{Content, ContentPart};

/// One input item; which fields count depends on `type` (absent: `message`), which `prepare` checks.
/// Items that a client sends back are as they were in `output`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InputItem {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Vec<ContentPart>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encrypted_content: Option<String>,

    // Of items that tell of hosted tools: kept and listed as they came, and not shown to the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval_request_id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approve: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outputs: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub results: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_label: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
}

impl InputItem {
    /// The item as the API lists it: with type, id and status, and a message's text as a part.
    pub fn settled(mut self) -> Self {
        let kind = self.kind.get_or_insert_with(|| "message".to_owned());
        let prefix = match kind.as_str() {
            "message" => "msg_",
            "reasoning" => "rs_",
            "function_call" => "fc_",
            "function_call_output" => "fco_",
            "compaction" => "cmp_",
            "custom_tool_call" => "ctc_",
            "custom_tool_call_output" => "ctco_",
            _ => "item_",
        };
        self.id.get_or_insert_with(|| new_id(prefix));
        self.status.get_or_insert_with(|| "completed".to_owned());
        let part_kind = if self.role.as_deref() == Some("assistant") { "output_text" } else { "input_text" };
        if let Some(Content::Text(text)) = self.content {
            let part = ContentPart { kind: part_kind.to_owned(), text: Some(text), refusal: None };
            self.content = Some(Content::List(vec![part]));
        }
        self
    }
}

impl From<&OutputItem> for InputItem {
    /// The item as a client sends it back.
    fn from(item: &OutputItem) -> Self {
        match item {
            OutputItem::Message { id, role, content, phase, status } => Self {
                id: Some(id.clone()),
                kind: Some("message".to_owned()),
                role: Some((*role).to_owned()),
                content: Some(Content::List(content.iter().map(ContentPart::from).collect())),
                phase: Some(phase.as_str().to_owned()),
                status: Some(status.as_str().to_owned()),
                ..Self::default()
            },
            OutputItem::Reasoning { id, content, encrypted_content, status, .. } => Self {
                id: Some(id.clone()),
                kind: Some("reasoning".to_owned()),
                content: Some(Content::List(content.iter().map(ContentPart::from).collect())),
                summary: Some(Vec::new()),
                encrypted_content: encrypted_content.clone(),
                status: Some(status.as_str().to_owned()),
                ..Self::default()
            },
            OutputItem::FunctionCall { id, call_id, namespace, name, arguments, status } => Self {
                id: Some(id.clone()),
                kind: Some("function_call".to_owned()),
                call_id: Some(call_id.clone()),
                namespace: namespace.clone(),
                name: Some(name.clone()),
                arguments: Some(arguments.clone()),
                status: Some(status.as_str().to_owned()),
                ..Self::default()
            },
            OutputItem::CustomToolCall { id, call_id, namespace, name, input, status } => Self {
                id: Some(id.clone()),
                kind: Some("custom_tool_call".to_owned()),
                call_id: Some(call_id.clone()),
                namespace: namespace.clone(),
                name: Some(name.clone()),
                input: Some(input.clone()),
                status: Some(status.as_str().to_owned()),
                ..Self::default()
            },
        }
    }
}

impl From<&OutputContent> for ContentPart {
    fn from(part: &OutputContent) -> Self {
        let (kind, text) = match part {
            OutputContent::OutputText { text, .. } => ("output_text", text),
            OutputContent::ReasoningText { text } => ("reasoning_text", text),
        };
        Self { kind: kind.to_owned(), text: Some(text.clone()), refusal: None }
    }
}
