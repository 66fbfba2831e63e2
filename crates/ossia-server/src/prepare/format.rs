//! `response_format` and `text.format`: what the answer is held to, and how the prompt shows it.

use ossia_harmony::{GrammarScope, GrammarSource, ResponseFormat};
use serde_json::{Value, json};

use super::{ContentRule, check};
use crate::error::ApiError;

/// Longest name of a format.
const MAX_NAME_LEN: usize = 64;

/// The fields of a format, wherever they stand.
#[derive(Debug, Default)]
pub(crate) struct FormatFields<'a> {
    /// Path of `type`, and of the object that holds the rest.
    pub(crate) type_param: &'static str,
    pub(crate) param: &'static str,
    pub(crate) kind: &'a str,
    pub(crate) name: Option<&'a str>,
    pub(crate) description: Option<&'a str>,
    pub(crate) schema: Option<&'a Value>,
    pub(crate) strict: bool,
}

/// A format other than plain text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OutputFormat {
    /// For the developer message.
    pub(crate) shown: ResponseFormat,
    pub(crate) rule: ContentRule,
}

/// Checks a format; plain text is none. A schema that is not `strict` may hold what the grammar cannot express: then
/// the answer is held to the rest.
///
/// # Errors
/// 400 naming the field at fault.
pub(crate) fn output_format(fields: &FormatFields<'_>) -> Result<Option<OutputFormat>, ApiError> {
    check::word(fields.type_param, Some(fields.kind), &["text", "json_object", "json_schema"])?;
    let (shown, source) = match fields.kind {
        "json_schema" => json_schema(fields)?,
        "json_object" => {
            let schema = json!({"type": "object"});
            (shown("json_object", Some("Any JSON object."), schema), GrammarSource::JsonObject)
        }
        _ => return Ok(None),
    };
    let param = format!("{}.schema", fields.param);
    let rule = ContentRule { scope: GrammarScope::Final, source, param, fallback: None };
    Ok(Some(OutputFormat { shown, rule }))
}

fn json_schema(fields: &FormatFields<'_>) -> Result<(ResponseFormat, GrammarSource), ApiError> {
    let param = fields.param;
    let name = fields.name.ok_or_else(|| ApiError::missing(format!("{param}.name")))?;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !(1..=MAX_NAME_LEN).contains(&name.len()) || !name.chars().all(legal) {
        let message = format!(
            "Invalid '{param}.name': expected 1 to {MAX_NAME_LEN} letters, digits, '_' or '-', but got '{name}'."
        );
        return Err(ApiError::invalid(format!("{param}.name"), "invalid_value", message));
    }
    let schema = fields.schema.ok_or_else(|| ApiError::missing(format!("{param}.schema")))?;
    if !schema.is_object() {
        let message = format!("Invalid type for '{param}.schema': expected a JSON Schema object.");
        return Err(ApiError::invalid(format!("{param}.schema"), "invalid_type", message));
    }
    let source = GrammarSource::JsonSchema { schema: schema.to_string(), lenient: !fields.strict };
    Ok((shown(name, fields.description, schema.clone()), source))
}

fn shown(name: &str, description: Option<&str>, schema: Value) -> ResponseFormat {
    ResponseFormat { name: name.to_owned(), description: description.map(str::to_owned), schema }
}
