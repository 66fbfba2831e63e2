//! Function tools and the choice among them, common to both APIs.

use std::collections::HashSet;

use ossia_harmony::FunctionTool;
use serde_json::Value;

use crate::error::ApiError;

/// Longest name of a function.
const MAX_NAME_LEN: usize = 64;

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
    /// A call of this function.
    Named(String),
    /// Only these functions; at least one call if `required`.
    Allowed { required: bool, names: Vec<String> },
}

/// What the prompt shows of the tools and what the model may do with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ToolPlan {
    /// Tools in the developer message.
    pub(crate) tools: Vec<FunctionTool>,
    /// Names of those that may be called.
    pub(crate) callable: Vec<String>,
    /// Whether the turn has to end with a call.
    pub(crate) required: bool,
}

/// A declared function: name, description, parameters and where it stands in the request.
pub(crate) struct Declared<'a> {
    pub(crate) param: String,
    pub(crate) name: &'a str,
    pub(crate) description: Option<&'a str>,
    pub(crate) parameters: Option<&'a Value>,
}

/// `tool_choice` as a word.
pub(crate) fn mode(param: &str, word: &str) -> Result<Choice, ApiError> {
    match word {
        "none" => Ok(Choice::None),
        "auto" => Ok(Choice::Auto),
        "required" => Ok(Choice::Required),
        other => Err(ApiError::invalid_value(param, other, &["none", "auto", "required"])),
    }
}

/// Checks the declarations and applies the choice.
///
/// # Errors
/// 400 naming the declaration at fault, or `tool_choice` if it asks for what is not there.
pub(crate) fn plan<'a>(
    declared: impl Iterator<Item = Declared<'a>>,
    choice: &Choice,
) -> Result<ToolPlan, ApiError> {
    let mut tools = Vec::new();
    let mut seen = HashSet::new();
    for tool in declared {
        check_name(&tool)?;
        if !seen.insert(tool.name) {
            let message =
                format!("Invalid '{}.name': the function '{}' is declared twice.", tool.param, tool.name);
            return Err(ApiError::invalid(format!("{}.name", tool.param), "invalid_value", message));
        }
        tools.push(function(&tool)?);
    }
    let all: Vec<String> = tools.iter().map(|tool| tool.name.clone()).collect();
    apply(choice, tools, all)
}

fn apply(choice: &Choice, tools: Vec<FunctionTool>, all: Vec<String>) -> Result<ToolPlan, ApiError> {
    let (callable, required) = match choice {
        Choice::None => return Ok(ToolPlan::default()),
        Choice::Auto => (all, false),
        Choice::Required => (all, true),
        Choice::Named(name) => (declared_only(std::slice::from_ref(name), &all)?, true),
        Choice::Allowed { required, names } => (declared_only(names, &all)?, *required),
    };
    if required && callable.is_empty() {
        let message =
            "Invalid 'tool_choice': a call is required, but no function tool is declared in 'tools'.";
        return Err(ApiError::invalid("tool_choice", "invalid_value", message));
    }
    Ok(ToolPlan { tools, callable, required })
}

fn declared_only(names: &[String], all: &[String]) -> Result<Vec<String>, ApiError> {
    match names.iter().find(|name| !all.contains(name)) {
        None => Ok(names.to_vec()),
        Some(name) => {
            let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
            Err(ApiError::invalid("tool_choice", "invalid_value", message))
        }
    }
}

fn check_name(tool: &Declared<'_>) -> Result<(), ApiError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !tool.name.is_empty() && tool.name.len() <= MAX_NAME_LEN && tool.name.chars().all(legal) {
        return Ok(());
    }
    let param = format!("{}.name", tool.param);
    let message = format!(
        "Invalid '{param}': expected 1 to {MAX_NAME_LEN} letters, digits, '_' or '-', but got '{}'.",
        tool.name
    );
    Err(ApiError::invalid(param, "invalid_value", message))
}

fn function(tool: &Declared<'_>) -> Result<FunctionTool, ApiError> {
    let parameters = match tool.parameters {
        None | Some(Value::Null) => None,
        Some(schema @ Value::Object(_)) => Some(schema.clone()),
        Some(_) => {
            let param = format!("{}.parameters", tool.param);
            let message = format!("Invalid type for '{param}': expected a JSON Schema object.");
            return Err(ApiError::invalid(param, "invalid_type", message));
        }
    };
    Ok(FunctionTool {
        name: tool.name.to_owned(),
        description: tool.description.map(str::to_owned),
        parameters,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declare<'a>(names: &'a [&'a str]) -> impl Iterator<Item = Declared<'a>> {
        names.iter().enumerate().map(|(i, name)| Declared {
            param: format!("tools[{i}].function"),
            name,
            description: None,
            parameters: None,
        })
    }

    fn named(name: &str) -> Choice {
        Choice::Named(name.to_owned())
    }

    #[test]
    fn choices_narrow_what_may_be_called() {
        let cases: [(Choice, usize, &[&str], bool); 5] = [
            (Choice::None, 0, &[], false),
            (Choice::Auto, 2, &["a", "b"], false),
            (Choice::Required, 2, &["a", "b"], true),
            (named("b"), 2, &["b"], true),
            (Choice::Allowed { required: false, names: vec!["a".to_owned()] }, 2, &["a"], false),
        ];
        for (choice, num_tools, callable, required) in cases {
            let plan = plan(declare(&["a", "b"]), &choice).expect("a legal choice");
            assert_eq!((plan.tools.len(), plan.required), (num_tools, required), "{choice:?}");
            assert_eq!(plan.callable, callable, "{choice:?}");
        }
    }

    #[test]
    fn impossible_choices_and_names_are_refused_by_name() {
        let long = "x".repeat(MAX_NAME_LEN + 1);
        let cases: [(&[&str], Choice, &str); 6] = [
            (&["a"], named("b"), "tool_choice"),
            (&[], Choice::Required, "tool_choice"),
            (&["a", "a"], Choice::Auto, "tools[1].function.name"),
            (&["a b"], Choice::Auto, "tools[0].function.name"),
            (&[""], Choice::Auto, "tools[0].function.name"),
            (&[&long], Choice::Auto, "tools[0].function.name"),
        ];
        for (names, choice, expected) in cases {
            match plan(declare(names), &choice) {
                Err(ApiError::Invalid { param, .. }) => assert_eq!(param.as_deref(), Some(expected)),
                other => panic!("{names:?} {choice:?}: {other:?}"),
            }
        }
    }
}
