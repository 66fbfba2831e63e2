//! The deprecated `functions` and `function_call`, read as tools.

use super::check;
use super::tools::{self, Choice, Declared, Kind, Strict, ToolPlan, ToolRef};
use crate::error::ApiError;
use crate::wire::chat::{ChatRequest, FunctionObject};
use crate::wire::poly::TextOrObject;

/// Most functions of a request, as in OpenAI's document.
const MAX_FUNCTIONS: usize = 128;

/// The plan of a request in the deprecated form; `None` when it has neither field.
///
/// # Errors
/// 400 naming the field at fault.
pub(crate) fn plan(request: &ChatRequest) -> Result<Option<ToolPlan>, ApiError> {
    let Some(functions) = &request.functions else {
        let reason = "It is only allowed when 'functions' are specified.";
        return check::absent("function_call", request.function_call.as_ref(), reason).map(|()| None);
    };
    if request.tools.is_some() || request.tool_choice.is_some() {
        let message = "'functions' is the deprecated form of 'tools' and cannot be used together with it.";
        return Err(ApiError::invalid("functions", "invalid_parameter_combination", message));
    }
    check_len(functions)?;
    let choice = choice(request, functions)?;
    let declared: Vec<_> = functions.iter().enumerate().map(|(i, function)| declared(i, function)).collect();
    tools::plan(&declared, &choice).map(Some)
}

fn declared(index: usize, function: &FunctionObject) -> Declared<'_> {
    Declared {
        param: format!("functions[{index}]"),
        namespace: None,
        name: &function.name,
        description: function.description.as_deref(),
        kind: Kind::Function { parameters: function.parameters.as_ref(), strict: Strict::No },
    }
}

fn check_len(functions: &[FunctionObject]) -> Result<(), ApiError> {
    let found = functions.len();
    let (code, bound) = match found {
        0 => ("empty_array", "at least 1".to_owned()),
        1..=MAX_FUNCTIONS => return Ok(()),
        _ => ("array_above_max_length", format!("at most {MAX_FUNCTIONS}")),
    };
    let message = format!("Invalid 'functions': expected {bound} entries, but got {found}.");
    Err(ApiError::invalid("functions", code, message))
}

fn choice(request: &ChatRequest, functions: &[FunctionObject]) -> Result<Choice, ApiError> {
    match &request.function_call {
        None => Ok(Choice::Auto),
        Some(TextOrObject::Text(mode)) => {
            check::word("function_call", Some(mode), &["none", "auto"])?;
            tools::mode("function_call", mode)
        }
        Some(TextOrObject::Object(named)) if functions.iter().any(|f| f.name == named.name) => {
            Ok(Choice::Named(ToolRef::named(&named.name, false)))
        }
        Some(TextOrObject::Object(named)) => {
            let message = format!("Invalid 'function_call': '{}' is not in 'functions'.", named.name);
            Err(ApiError::invalid("function_call", "invalid_value", message))
        }
    }
}
