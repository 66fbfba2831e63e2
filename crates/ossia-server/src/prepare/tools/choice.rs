//! `tool_choice`: which of the declared tools may be called, and whether one has to be.

use crate::error::ApiError;
use crate::turn::Callable;

/// `tool_choice`, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    /// No calls.
    None,
    /// The model decides.
    #[default]
    Auto,
    /// At least one call.
    Required,
    /// A call of this tool.
    Named(ToolRef),
    /// Only these tools; at least one call if `required`.
    Allowed { required: bool, tools: Vec<ToolRef> },
}

/// How a choice names a tool, or all tools of a namespace if it has no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToolRef {
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) custom: bool,
}

/// `tool_choice` as a word.
///
/// # Errors
/// 400 for an unknown word.
pub(crate) fn mode(param: &str, word: &str) -> Result<Choice, ApiError> {
    match word {
        "none" => Ok(Choice::None),
        "auto" => Ok(Choice::Auto),
        "required" => Ok(Choice::Required),
        other => Err(ApiError::invalid_value(param, other, &["none", "auto", "required"])),
    }
}

impl ToolRef {
    /// A function or, if `custom`, a custom tool.
    pub(crate) fn named(name: &str, custom: bool) -> Self {
        Self { namespace: None, name: Some(name.to_owned()), custom }
    }

    fn matches(&self, tool: &Callable) -> bool {
        let Some(name) = &self.name else { return self.namespace == tool.namespace };
        let is_there = self.namespace.is_none() || self.namespace == tool.namespace;
        is_there && *name == tool.name && self.custom == tool.custom
    }

    fn as_str(&self) -> &str {
        self.name.as_deref().or(self.namespace.as_deref()).unwrap_or_default()
    }
}

impl Choice {
    /// Whether the model may call nothing, so that the prompt shows no tools either.
    pub(super) fn is_none(&self) -> bool {
        *self == Self::None
    }

    /// The tools that may be called, and whether one has to be.
    ///
    /// # Errors
    /// 400 naming `tool_choice` if it asks for what is not there.
    pub(super) fn narrow(&self, all: Vec<Callable>) -> Result<(Vec<Callable>, bool), ApiError> {
        let (callable, required) = match self {
            Self::None => (Vec::new(), false),
            Self::Auto => (all, false),
            Self::Required => (all, true),
            Self::Named(tool) => (only(std::slice::from_ref(tool), all)?, true),
            Self::Allowed { required, tools } => (only(tools, all)?, *required),
        };
        if required && callable.is_empty() {
            let message = "Invalid 'tool_choice': a call is required, but no function or custom tool is declared in 'tools'.";
            return Err(ApiError::invalid("tool_choice", "invalid_value", message));
        }
        Ok((callable, required))
    }
}

fn only(wanted: &[ToolRef], all: Vec<Callable>) -> Result<Vec<Callable>, ApiError> {
    let missing = wanted.iter().find(|wanted| !all.iter().any(|tool| wanted.matches(tool)));
    if let Some(missing) = missing {
        let message = format!("Tool choice '{}' not found in 'tools' parameter.", missing.as_str());
        return Err(ApiError::invalid("tool_choice", "invalid_value", message));
    }
    let is_wanted = |tool: &Callable| wanted.iter().any(|wanted| wanted.matches(tool));
    Ok(all.into_iter().filter(is_wanted).collect())
}
