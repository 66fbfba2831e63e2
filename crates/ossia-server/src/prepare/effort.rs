//! Reasoning effort and verbosity: OpenAI's scales onto what gpt-oss understands.
//!
//! | asked | system message | analysis |
//! |---|---|---|
//! | `none`, `minimal` | `Reasoning: low` | an empty analysis stands in the prompt already |
//! | `low`, `medium`, `high` | the same word | free |
//! | `xhigh`, `max` | `Reasoning: high` | free |

use ossia_harmony::ReasoningEffort;

use super::check;
use crate::error::ApiError;

const EFFORTS: [&str; 7] = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// How the model is to think.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Effort {
    /// The word in the system message.
    pub(crate) level: ReasoningEffort,
    /// Whether the turn starts with an empty analysis, so that the model answers at once.
    pub(crate) skip_analysis: bool,
}

impl Effort {
    /// Parses the value of the field `param`; absent is medium.
    pub(crate) fn parse(param: &str, value: Option<&str>) -> Result<Self, ApiError> {
        let (level, skip_analysis) = match value {
            None | Some("medium") => (ReasoningEffort::Medium, false),
            Some("none" | "minimal") => (ReasoningEffort::Low, true),
            Some("low") => (ReasoningEffort::Low, false),
            Some("high" | "xhigh" | "max") => (ReasoningEffort::High, false),
            Some(other) => return Err(ApiError::invalid_value(param, other, &EFFORTS)),
        };
        Ok(Self { level, skip_analysis })
    }
}

/// What `verbosity` adds to the instructions; gpt-oss has no switch of its own for it.
pub(crate) fn verbosity(param: &str, value: Option<&str>) -> Result<Option<&'static str>, ApiError> {
    check::word(param, value, &["low", "medium", "high"])?;
    Ok(match value {
        Some("low") => Some("Keep the final answer short."),
        Some("high") => Some("Make the final answer detailed."),
        _ => None,
    })
}
