//! Tools of a response request, which the response echoes.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::wire::poly::TextOrObject;

/// One entry of `tools`: a kind that the client runs, or any other, kept as it came.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum ResponseTool {
    Function(FunctionTool),
    Custom(CustomTool),
    Namespace(NamespaceTool),
    Other(Map<String, Value>),
}

/// A function's declaration. The response always sends all five keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FunctionTool {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub parameters: Option<Value>,
    #[serde(default)]
    pub strict: Option<bool>,
}

/// The declaration of a tool that takes text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomTool {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<CustomToolFormat>,
}

/// `format` of a custom tool; `type` is `text` or `grammar`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CustomToolFormat {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syntax: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<String>,
}

/// A group of functions and custom tools.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamespaceTool {
    #[serde(rename = "type")]
    pub kind: String,
    pub name: String,
    #[serde(default)]
    pub description: Option<String>,
    pub tools: Vec<ResponseTool>,
}

impl ResponseTool {
    /// The tool's `type`, empty if it has none.
    pub fn kind(&self) -> &str {
        match self {
            Self::Function(tool) => &tool.kind,
            Self::Custom(tool) => &tool.kind,
            Self::Namespace(tool) => &tool.kind,
            Self::Other(map) => map.get("type").and_then(Value::as_str).unwrap_or_default(),
        }
    }
}

impl<'de> Deserialize<'de> for ResponseTool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = Map::deserialize(deserializer)?;
        let read = match map.get("type").and_then(Value::as_str) {
            Some("function") => serde_json::from_value(map.into()).map(Self::Function),
            Some("custom") => serde_json::from_value(map.into()).map(Self::Custom),
            Some("namespace") => serde_json::from_value(map.into()).map(Self::Namespace),
            _ => Ok(Self::Other(map)),
        };
        read.map_err(D::Error::custom)
    }
}

/// `tool_choice`: a mode, or an object.
pub type ToolChoice = TextOrObject<ToolChoiceObject>;

/// `tool_choice` as an object; which fields count depends on `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolChoiceObject {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<AllowedToolName>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_label: Option<String>,
}

/// One entry of an `allowed_tools` choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AllowedToolName {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
