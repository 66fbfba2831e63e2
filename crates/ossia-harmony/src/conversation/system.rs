//! The system message: identity, dates, effort, built-in tools.

use super::{ToolNamespace, builtin};

/// The identity that gpt-oss was trained with.
pub const DEFAULT_MODEL_IDENTITY: &str = "You are ChatGPT, a large language model trained by OpenAI.";

/// Where gpt-oss's training data ends.
pub const DEFAULT_KNOWLEDGE_CUTOFF: &str = "2024-06";

/// How long the model thinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ReasoningEffort {
    /// Little.
    Low,
    /// The default.
    #[default]
    Medium,
    /// Much.
    High,
}

impl ReasoningEffort {
    /// The word in the system message.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// A tool that gpt-oss was trained with; declared in the system message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BuiltinTool {
    /// `browser.search`, `browser.open`, `browser.find`.
    Browser,
    /// `python`.
    Python,
}

impl BuiltinTool {
    /// The recipients that calls of this tool have.
    pub fn recipients(self) -> &'static [&'static str] {
        match self {
            Self::Browser => &["browser.search", "browser.open", "browser.find"],
            Self::Python => &["python"],
        }
    }

    /// The tool as it is declared in the system message.
    pub fn namespace(self) -> ToolNamespace {
        match self {
            Self::Browser => builtin::browser(),
            Self::Python => builtin::python(),
        }
    }
}

/// What the system message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemContent {
    /// The first line.
    pub model_identity: Option<String>,
    /// `YYYY-MM`.
    pub knowledge_cutoff: Option<String>,
    /// `YYYY-MM-DD`. Keep it fixed for a conversation, or its prefix cache is lost at midnight.
    pub current_date: Option<String>,
    /// How long the model thinks.
    pub reasoning_effort: ReasoningEffort,
    /// Built-in tools, in any order, each once.
    pub builtin_tools: Vec<BuiltinTool>,
}

impl Default for SystemContent {
    fn default() -> Self {
        Self {
            model_identity: Some(DEFAULT_MODEL_IDENTITY.to_owned()),
            knowledge_cutoff: Some(DEFAULT_KNOWLEDGE_CUTOFF.to_owned()),
            current_date: None,
            reasoning_effort: ReasoningEffort::default(),
            builtin_tools: Vec::new(),
        }
    }
}
