//! Content of messages: strings and parts become text; what a text model cannot read is refused by name.

use crate::error::ApiError;
use crate::wire::content::{Content, ContentPart};
use crate::wire::poly::TextOrList;

/// Kinds of part whose text counts.
const TEXT_KINDS: [&str; 5] = ["text", "input_text", "output_text", "reasoning_text", "summary_text"];

/// The text of a message. Parts are joined by line breaks, since clients send separate documents as parts.
pub(crate) fn text(param: &str, content: &Content) -> Result<String, ApiError> {
    match content {
        TextOrList::Text(text) => Ok(text.clone()),
        TextOrList::List(parts) => parts_text(param, parts),
    }
}

/// The text of a list of parts.
pub(crate) fn parts_text(param: &str, parts: &[ContentPart]) -> Result<String, ApiError> {
    let texts = parts.iter().enumerate().map(|(i, part)| part_text(&format!("{param}[{i}]"), part));
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}

fn part_text<'a>(param: &str, part: &'a ContentPart) -> Result<&'a str, ApiError> {
    let (field, text) = match part.kind.as_str() {
        kind if TEXT_KINDS.contains(&kind) => ("text", &part.text),
        "refusal" => ("refusal", &part.refusal),
        kind => {
            let message = format!(
                "Invalid '{param}.type': '{kind}' parts are not supported, the model reads text only."
            );
            return Err(ApiError::invalid(format!("{param}.type"), "invalid_value", message));
        }
    };
    text.as_deref().ok_or_else(|| ApiError::missing(format!("{param}.{field}")))
}
