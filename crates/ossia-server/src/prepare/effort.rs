//! Reasoning effort and verbosity: OpenAI's scales onto what gpt-oss understands.
//!
//! | asked | system message | analysis |
//! |---|---|---|
//! | `none`, `minimal` | `Reasoning: low` | an empty analysis stands in the prompt already |
//! | `low`, `medium`, `high` | the same word | free |
//! | `xhigh`, `max` | `Reasoning: high` | free |
//!
//! A budget closes the analysis at that many tokens; a budget of 0 is an empty analysis.

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
    /// Most tokens of thought, at least one.
    pub(crate) max_reasoning_tokens: Option<usize>,
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
        Ok(Self { level, skip_analysis, max_reasoning_tokens: None })
    }

    /// The same with a budget: the least of the server's and of the request's, each with the name of its field.
    ///
    /// # Errors
    /// 400 for a negative budget.
    pub(crate) fn with_budget(
        mut self,
        server: Option<usize>,
        request: &[(&str, Option<i64>)],
    ) -> Result<Self, ApiError> {
        let mut max = server;
        for (param, value) in request {
            let asked = check::integer(param, *value, 0, i64::MAX)?.map(|number| number as usize);
            max = max.into_iter().chain(asked).min();
        }
        self.skip_analysis |= max == Some(0);
        self.max_reasoning_tokens = max.filter(|_| !self.skip_analysis);
        Ok(self)
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
