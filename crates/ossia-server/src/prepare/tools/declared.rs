//! Declarations of tools as both APIs have them: names are checked, and each tells what its calls are held to.

use ossia_harmony::{FunctionTool, GrammarScope, GrammarSource};
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::prepare::ContentRule;
use crate::turn::Callable;

/// Longest name of a tool; within a namespace, and of a namespace.
const MAX_NAME_LEN: usize = 64;
const MAX_NAMESPACED_LEN: usize = 128;
/// Namespaces that are the server's own.
const RESERVED: [&str; 3] = ["functions", "browser", "python"];

/// A declared tool: where it stands in the request, and what it is.
#[derive(Debug, Clone)]
pub(crate) struct Declared<'a> {
    /// Path of the declaration, such as `tools[0].function`.
    pub(crate) param: String,
    /// Name and description of the namespace that it belongs to, if it is not `functions`.
    pub(crate) namespace: Option<(&'a str, Option<&'a str>)>,
    pub(crate) name: &'a str,
    pub(crate) description: Option<&'a str>,
    pub(crate) kind: Kind<'a>,
}

/// The kinds of tool whose calls the client answers.
#[derive(Debug, Clone)]
pub(crate) enum Kind<'a> {
    /// Takes JSON.
    Function { parameters: Option<&'a Value>, strict: Strict },
    /// Takes text, of a language if `format` says so.
    Custom { format: Option<CustomFormat> },
}

/// The language of a custom tool's input.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CustomFormat {
    pub(crate) source: GrammarSource,
    /// Path of `definition`.
    pub(crate) param: String,
}

/// How exactly a function's arguments are held to its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strict {
    /// They are an object.
    No,
    /// They are valid, if the grammar can express the schema.
    IfPossible,
    /// They are valid; a schema that the grammar cannot express is an error.
    Yes,
}

/// The language of a custom tool's input; `param` is the path of the object that holds `syntax` and `definition`.
///
/// # Errors
/// 400 for an unknown syntax.
pub(crate) fn custom_format(param: &str, syntax: &str, definition: &str) -> Result<CustomFormat, ApiError> {
    let source = match syntax {
        "lark" => GrammarSource::Lark(definition.to_owned()),
        "regex" => GrammarSource::Regex(definition.to_owned()),
        other => {
            return Err(ApiError::invalid_value(format!("{param}.syntax"), other, &["lark", "regex"]));
        }
    };
    Ok(CustomFormat { source, param: format!("{param}.definition") })
}

impl<'a> Declared<'a> {
    /// What the model writes into the header of a call.
    pub(super) fn recipient(&self) -> String {
        format!("{}.{}", self.namespace.map_or("functions", |(name, _)| name), self.name)
    }

    pub(super) fn callable(&self) -> Callable {
        Callable {
            recipient: self.recipient(),
            namespace: self.namespace.map(|(name, _)| name.to_owned()),
            name: self.name.to_owned(),
            custom: matches!(self.kind, Kind::Custom { .. }),
        }
    }

    /// # Errors
    /// 400 naming the declaration.
    pub(super) fn check_names(&self) -> Result<(), ApiError> {
        let max = if self.namespace.is_some() { MAX_NAMESPACED_LEN } else { MAX_NAME_LEN };
        check_name(&format!("{}.name", self.param), self.name, max)?;
        let Some((namespace, _)) = self.namespace else { return Ok(()) };
        let param = self.param.rsplit_once(".tools").map_or(self.param.as_str(), |(param, _)| param);
        let param = format!("{param}.name");
        check_name(&param, namespace, MAX_NAMESPACED_LEN)?;
        if RESERVED.contains(&namespace) {
            let message = format!("Invalid '{param}': '{namespace}' is reserved.");
            return Err(ApiError::invalid(param, "invalid_value", message));
        }
        Ok(())
    }

    /// The declaration as the prompt shows it. A custom tool is a function of a string; its grammar is shown too, for
    /// a model writes better what it has not to be forced to.
    ///
    /// # Errors
    /// 400 if the parameters are no object.
    pub(super) fn shown(&self) -> Result<FunctionTool, ApiError> {
        let (description, parameters) = match &self.kind {
            Kind::Function { parameters, .. } => {
                (self.description.map(str::to_owned), self.parameters(*parameters)?.cloned())
            }
            Kind::Custom { format } => {
                let source = format.as_ref().map(|format| &format.source);
                (Some(custom_description(self.description, source)), Some(json!({"type": "string"})))
            }
        };
        Ok(FunctionTool { name: self.name.to_owned(), description, parameters })
    }

    fn parameters(&self, parameters: Option<&'a Value>) -> Result<Option<&'a Value>, ApiError> {
        match parameters {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(_)) => Ok(parameters),
            Some(_) => {
                let param = format!("{}.parameters", self.param);
                let message = format!("Invalid type for '{param}': expected a JSON Schema object.");
                Err(ApiError::invalid(param, "invalid_type", message))
            }
        }
    }

    /// What the content of calls is held to.
    pub(super) fn rule(&self) -> Option<ContentRule> {
        let (source, fallback, param) = match &self.kind {
            Kind::Function { parameters, strict } => {
                let (source, fallback) = function_rule(*parameters, *strict);
                (source, fallback, format!("{}.parameters", self.param))
            }
            Kind::Custom { format } => {
                let format = format.clone()?;
                (format.source, None, format.param)
            }
        };
        Some(ContentRule { scope: GrammarScope::Call(self.recipient()), source, param, fallback })
    }
}

/// The grammar of a function's arguments, and what stands in for it when it cannot be compiled.
fn function_rule(parameters: Option<&Value>, strict: Strict) -> (GrammarSource, Option<GrammarSource>) {
    let schema = match parameters {
        Some(schema @ Value::Object(_)) => schema.to_string(),
        _ => return (GrammarSource::JsonObject, None),
    };
    let exact = GrammarSource::JsonSchema { schema, lenient: false };
    match strict {
        Strict::No => (GrammarSource::JsonObject, None),
        Strict::IfPossible => (exact, Some(GrammarSource::JsonObject)),
        Strict::Yes => (exact, None),
    }
}

fn custom_description(description: Option<&str>, format: Option<&GrammarSource>) -> String {
    let mut lines = Vec::from_iter(description.map(str::to_owned));
    lines.push("The input is plain text, not JSON.".to_owned());
    match format {
        Some(GrammarSource::Lark(grammar)) => {
            lines.push(format!("It must match this Lark grammar:\n{}", grammar.trim_end()));
        }
        Some(GrammarSource::Regex(regex)) => {
            lines.push(format!("It must match this regular expression: {regex}"));
        }
        _ => {}
    }
    lines.join("\n")
}

fn check_name(param: &str, name: &str, max: usize) -> Result<(), ApiError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=max).contains(&name.len()) && name.chars().all(legal) {
        return Ok(());
    }
    let message =
        format!("Invalid '{param}': expected 1 to {max} letters, digits, '_' or '-', but got '{name}'.");
    Err(ApiError::invalid(param, "invalid_value", message))
}
