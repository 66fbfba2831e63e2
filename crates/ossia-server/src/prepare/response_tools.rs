//! `tools` and `tool_choice` of a response request.

use super::check;
use super::tools::{self, Choice, CustomFormat, Declared, Kind, Strict, ToolPlan, ToolRef, custom_format};
use crate::error::ApiError;
use crate::wire::poly::TextOrObject;
use crate::wire::responses::{
    AllowedToolName, CustomTool, FunctionTool, NamespaceTool, ResponseRequest, ResponseTool, ToolChoice,
};

/// What the request says of tools.
///
/// # Errors
/// 400 naming the declaration or the choice at fault.
pub(crate) fn tool_plan(request: &ResponseRequest) -> Result<ToolPlan, ApiError> {
    let mut declared = Vec::new();
    for (i, tool) in request.tools.iter().flatten().enumerate() {
        let param = format!("tools[{i}]");
        match tool {
            ResponseTool::Namespace(namespace) => declare_namespace(param, namespace, &mut declared)?,
            tool => declared.extend(declare(param, tool)?),
        }
    }
    tools::plan(&declared, &choice(request.tool_choice.as_ref())?)
}

fn declare_namespace<'a>(
    param: String,
    namespace: &'a NamespaceTool,
    declared: &mut Vec<Declared<'a>>,
) -> Result<(), ApiError> {
    for (i, tool) in namespace.tools.iter().enumerate() {
        let tool = declare(format!("{param}.tools[{i}]"), tool)?;
        let here = Some((namespace.name.as_str(), namespace.description.as_deref()));
        declared.extend(tool.map(|tool| Declared { namespace: here, ..tool }));
    }
    Ok(())
}

/// Tools that would run on the server are left out: the request may go on without them.
fn declare(param: String, tool: &ResponseTool) -> Result<Option<Declared<'_>>, ApiError> {
    match tool {
        ResponseTool::Function(tool) => Ok(Some(function(param, tool))),
        ResponseTool::Custom(tool) => custom(param, tool).map(Some),
        ResponseTool::Namespace(_) => {
            let message =
                format!("Invalid '{param}.type': a namespace holds functions and custom tools only.");
            Err(ApiError::invalid(format!("{param}.type"), "invalid_value", message))
        }
        ResponseTool::Other(_) if tool.kind().is_empty() => Err(ApiError::missing(format!("{param}.type"))),
        ResponseTool::Other(_) => {
            tracing::info!(kind = tool.kind(), "a hosted tool is not available here and is left out");
            Ok(None)
        }
    }
}

/// Where `strict` is not said, it is on if the schema allows it, as in OpenAI's document.
fn function(param: String, tool: &FunctionTool) -> Declared<'_> {
    let strict = match tool.strict {
        None => Strict::IfPossible,
        Some(true) => Strict::Yes,
        Some(false) => Strict::No,
    };
    let kind = Kind::Function { parameters: tool.parameters.as_ref(), strict };
    Declared { param, namespace: None, name: &tool.name, description: tool.description.as_deref(), kind }
}

fn custom(param: String, tool: &CustomTool) -> Result<Declared<'_>, ApiError> {
    let format = custom_tool_format(&format!("{param}.format"), tool)?;
    let kind = Kind::Custom { format };
    Ok(Declared { param, namespace: None, name: &tool.name, description: tool.description.as_deref(), kind })
}

fn custom_tool_format(param: &str, tool: &CustomTool) -> Result<Option<CustomFormat>, ApiError> {
    let Some(format) = &tool.format else { return Ok(None) };
    check::word(&format!("{param}.type"), Some(&format.kind), &["text", "grammar"])?;
    if format.kind == "text" {
        return Ok(None);
    }
    let syntax = format.syntax.as_deref().ok_or_else(|| ApiError::missing(format!("{param}.syntax")))?;
    let definition =
        format.definition.as_deref().ok_or_else(|| ApiError::missing(format!("{param}.definition")))?;
    custom_format(param, syntax, definition).map(Some)
}

fn choice(value: Option<&ToolChoice>) -> Result<Choice, ApiError> {
    let object = match value {
        None => return Ok(Choice::Auto),
        Some(TextOrObject::Text(mode)) => return tools::mode("tool_choice", mode),
        Some(TextOrObject::Object(object)) => object,
    };
    match (object.kind.as_str(), &object.name, &object.tools) {
        ("function" | "custom", Some(name), _) => Ok(Choice::Named(ToolRef {
            namespace: object.namespace.clone(),
            name: Some(name.clone()),
            custom: object.kind == "custom",
        })),
        ("function" | "custom", None, _) => Err(ApiError::missing("tool_choice.name")),
        ("allowed_tools", _, Some(allowed)) => {
            check::word("tool_choice.mode", object.mode.as_deref(), &["auto", "required"])?;
            let tools = allowed.iter().filter_map(tool_ref).collect();
            Ok(Choice::Allowed { required: object.mode.as_deref() == Some("required"), tools })
        }
        ("allowed_tools", _, None) => Err(ApiError::missing("tool_choice.tools")),
        (other, ..) => {
            let reason = format!("Tools of type '{other}' are not available here and cannot be forced.");
            Err(ApiError::unsupported("tool_choice", &reason))
        }
    }
}

/// Hosted tools may be allowed: they are not there to be called.
fn tool_ref(tool: &AllowedToolName) -> Option<ToolRef> {
    match tool.kind.as_str() {
        "function" | "custom" => Some(ToolRef {
            namespace: tool.namespace.clone(),
            name: Some(tool.name.clone()?),
            custom: tool.kind == "custom",
        }),
        "namespace" => Some(ToolRef { namespace: Some(tool.name.clone()?), name: None, custom: false }),
        _ => None,
    }
}
