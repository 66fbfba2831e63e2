//! `tools` and `tool_choice` of a chat request.

use super::tools::{self, Choice, CustomFormat, Declared, Kind, Strict, ToolPlan, ToolRef, custom_format};
use super::{chat_functions, check};
use crate::error::ApiError;
use crate::wire::chat::{ChatRequest, ChatTool, ChatToolChoice, CustomObject, ToolName};
use crate::wire::poly::TextOrObject;

/// What the request says of tools.
///
/// # Errors
/// 400 naming the declaration or the choice at fault.
pub(crate) fn tool_plan(request: &ChatRequest) -> Result<ToolPlan, ApiError> {
    if let Some(plan) = chat_functions::plan(request)? {
        return Ok(plan);
    }
    let tools = request.tools.as_deref().unwrap_or_default();
    let declared: Vec<Declared<'_>> =
        tools.iter().enumerate().map(|(i, tool)| declared(i, tool)).collect::<Result<_, _>>()?;
    tools::plan(&declared, &choice(request.tool_choice.as_ref())?)
}

fn declared(index: usize, tool: &ChatTool) -> Result<Declared<'_>, ApiError> {
    let kind_param = format!("tools[{index}].type");
    let param = format!("tools[{index}].{}", tool.kind);
    let (name, description, kind) = match (tool.kind.as_str(), &tool.function, &tool.custom) {
        ("function", Some(function), _) => {
            let strict = if function.strict == Some(true) { Strict::Yes } else { Strict::No };
            let kind = Kind::Function { parameters: function.parameters.as_ref(), strict };
            (&function.name, &function.description, kind)
        }
        ("custom", _, Some(custom)) => {
            let format = format(&format!("{param}.format"), custom)?;
            (&custom.name, &custom.description, Kind::Custom { format })
        }
        ("function" | "custom", ..) => return Err(ApiError::missing(param)),
        (other, ..) => return Err(ApiError::invalid_value(kind_param, other, &["function", "custom"])),
    };
    Ok(Declared { param, namespace: None, name, description: description.as_deref(), kind })
}

fn format(param: &str, tool: &CustomObject) -> Result<Option<CustomFormat>, ApiError> {
    let Some(format) = &tool.format else { return Ok(None) };
    check::word(&format!("{param}.type"), Some(&format.kind), &["text", "grammar"])?;
    match (format.kind.as_str(), &format.grammar) {
        ("grammar", Some(grammar)) => {
            custom_format(&format!("{param}.grammar"), &grammar.syntax, &grammar.definition).map(Some)
        }
        ("grammar", None) => Err(ApiError::missing(format!("{param}.grammar"))),
        _ => Ok(None),
    }
}

fn choice(value: Option<&ChatToolChoice>) -> Result<Choice, ApiError> {
    let object = match value {
        None => return Ok(Choice::Auto),
        Some(TextOrObject::Text(mode)) => return tools::mode("tool_choice", mode),
        Some(TextOrObject::Object(object)) => object,
    };
    match (object.kind.as_str(), &object.allowed_tools) {
        ("function" | "custom", _) => {
            tool_ref("tool_choice", &object.kind, object.function.as_ref(), object.custom.as_ref())
                .map(Choice::Named)
        }
        ("allowed_tools", Some(allowed)) => {
            check::word("tool_choice.allowed_tools.mode", Some(&allowed.mode), &["auto", "required"])?;
            let refs = allowed.tools.iter().enumerate().map(|(i, tool)| {
                let param = format!("tool_choice.allowed_tools.tools[{i}]");
                tool_ref(&param, &tool.kind, tool.function.as_ref(), tool.custom.as_ref())
            });
            let tools = refs.collect::<Result<_, _>>()?;
            Ok(Choice::Allowed { required: allowed.mode == "required", tools })
        }
        ("allowed_tools", None) => Err(ApiError::missing("tool_choice.allowed_tools")),
        (other, _) => {
            Err(ApiError::invalid_value("tool_choice.type", other, &["function", "allowed_tools", "custom"]))
        }
    }
}

fn tool_ref(
    param: &str,
    kind: &str,
    function: Option<&ToolName>,
    custom: Option<&ToolName>,
) -> Result<ToolRef, ApiError> {
    let name = match kind {
        "function" => function,
        "custom" => custom,
        other => {
            return Err(ApiError::invalid_value(format!("{param}.type"), other, &["function", "custom"]));
        }
    };
    let name = name.ok_or_else(|| ApiError::missing(format!("{param}.{kind}")))?;
    Ok(ToolRef::named(&name.name, kind == "custom"))
}
