//! What the content of a message can be held to.

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use crate::HarmonyError;

/// Longest grammar or schema, in bytes of its text.
const MAX_SOURCE_LEN: usize = 256 << 10;

/// White space between the tokens of JSON: enough for deep indentation, and an end to blanks without end.
const JSON_BLANKS: &str = r"[\x20\x0A\x0D\x09]{1,64}";

/// A language for the content of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GrammarSource {
    /// JSON that is valid against a JSON Schema, its keys in the order of `properties`.
    JsonSchema {
        /// The schema as JSON text.
        schema: String,
        /// Leave out what the grammar cannot express (`oneOf` of overlapping variants, unknown keywords) instead of
        /// refusing the schema: then some of what it allows is not valid.
        lenient: bool,
    },
    /// Any JSON object.
    JsonObject,
    /// Text that matches a regular expression of the regex crate's syntax from end to end.
    Regex(String),
    /// Text of a grammar in Lark's syntax as llguidance reads it.
    Lark(String),
}

impl GrammarSource {
    pub(super) fn to_llguidance(&self) -> Result<TopLevelGrammar, HarmonyError> {
        let len = self.text().len();
        if len > MAX_SOURCE_LEN {
            return Err(HarmonyError::GrammarTooLong { len, max: MAX_SOURCE_LEN });
        }
        Ok(match self {
            Self::JsonSchema { schema, lenient } => json_schema(parse_schema(schema)?, *lenient),
            Self::JsonObject => json_schema(json!({"type": "object"}), false),
            Self::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Self::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        })
    }

    fn text(&self) -> &str {
        match self {
            Self::JsonSchema { schema: text, .. } | Self::Regex(text) | Self::Lark(text) => text,
            Self::JsonObject => "",
        }
    }
}

fn parse_schema(schema: &str) -> Result<Value, HarmonyError> {
    let reason = match serde_json::from_str(schema) {
        Ok(schema @ Value::Object(_)) => return Ok(schema),
        Ok(_) => "a JSON Schema is an object".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(HarmonyError::Grammar { reason })
}

/// `schema` is an object.
fn json_schema(mut schema: Value, lenient: bool) -> TopLevelGrammar {
    // llguidance's own options stand in the schema; those that a client may have put there do not count.
    schema["x-guidance"] = json!({"whitespace_pattern": JSON_BLANKS, "lenient": lenient});
    TopLevelGrammar::from_json_schema(schema)
}
