//! Input items of a response into a harmony dialogue.

use ossia_harmony::Message;

use super::content;
use super::dialogue::{Dialogue, recipient};
use crate::error::ApiError;
use crate::wire::poly::TextOrList;
use crate::wire::responses::{InputItem, ResponseInput};

/// Items that tell of tools which ran elsewhere; the model's own words about them stand in its messages.
const HOSTED_ITEMS: [&str; 10] = [
    "web_search_call",
    "file_search_call",
    "code_interpreter_call",
    "image_generation_call",
    "mcp_call",
    "mcp_list_tools",
    "mcp_approval_request",
    "mcp_approval_response",
    "tool_search_call",
    "tool_search_output",
];

/// What the model is told before the summary of what it no longer sees.
const COMPACTED: &str = "The conversation before this point was too long and has been summarised:\n\n";

/// `input` as items, in which there may be references.
///
/// # Errors
/// 400 if `input` is absent.
pub(crate) fn input_items(input: Option<ResponseInput>) -> Result<Vec<InputItem>, ApiError> {
    match input.ok_or_else(|| ApiError::missing("input"))? {
        TextOrList::Text(text) => Ok(vec![user_message(text)]),
        TextOrList::List(items) => Ok(items),
    }
}

/// Checks items that are kept for a later turn. An output may answer a call that is kept already.
///
/// # Errors
/// 400 naming the item's field that is missing, unknown or of the wrong kind.
pub(crate) fn check_items(param: &str, items: &[InputItem]) -> Result<(), ApiError> {
    let mut dialogue = Dialogue::default();
    for (i, item) in items.iter().enumerate() {
        let param = format!("{param}[{i}]");
        match item.kind.as_deref() {
            Some("function_call_output" | "custom_tool_call_output") => {
                item.call_id.as_ref().ok_or_else(|| ApiError::missing(format!("{param}.call_id")))?;
                let output_param = format!("{param}.output");
                let output = item.output.as_ref().ok_or_else(|| ApiError::missing(&*output_param))?;
                content::text(&output_param, output)?;
            }
            _ => dialogue.push_item(&param, item)?,
        }
    }
    Ok(())
}

fn user_message(text: String) -> InputItem {
    InputItem {
        kind: Some("message".to_owned()),
        role: Some("user".to_owned()),
        content: Some(TextOrList::Text(text)),
        ..InputItem::default()
    }
}

impl InputItem {
    /// The id that an `item_reference` refers to; it may come without a type.
    pub(crate) fn reference(&self) -> Option<&str> {
        let bare = self.kind.is_none() && self.role.is_none();
        if self.kind.as_deref() == Some("item_reference") || bare { self.id.as_deref() } else { None }
    }
}

impl Dialogue {
    /// Adds items. `param` names the list they came from.
    ///
    /// # Errors
    /// 400 naming the item's field that is missing, unknown or of the wrong kind.
    pub(crate) fn push_items(&mut self, param: &str, items: &[InputItem]) -> Result<(), ApiError> {
        items.iter().enumerate().try_for_each(|(i, item)| self.push_item(&format!("{param}[{i}]"), item))
    }

    fn push_item(&mut self, param: &str, item: &InputItem) -> Result<(), ApiError> {
        match item.kind.as_deref().unwrap_or("message") {
            "message" => self.push_message_item(param, item),
            "reasoning" => self.push_reasoning_item(param, item),
            "function_call" | "custom_tool_call" => self.push_call_item(param, item),
            "compaction" => self.push_compaction_item(param, item),
            "function_call_output" | "custom_tool_call_output" => self.push_output_item(param, item),
            kind if HOSTED_ITEMS.contains(&kind) => {
                tracing::debug!(kind, param, "an item of a hosted tool is not shown to the model");
                Ok(())
            }
            kind => {
                let param = format!("{param}.type");
                let message =
                    format!("Invalid value: '{kind}' for '{param}'. Items of this type are not supported.");
                Err(ApiError::invalid(param, "invalid_value", message))
            }
        }
    }

    fn push_message_item(&mut self, param: &str, item: &InputItem) -> Result<(), ApiError> {
        let role = item.role.as_deref().ok_or_else(|| ApiError::missing(format!("{param}.role")))?;
        let content_param = format!("{param}.content");
        let found = item.content.as_ref().ok_or_else(|| ApiError::missing(&*content_param))?;
        let text = content::text(&content_param, found)?;
        match role {
            "system" | "developer" => self.instruct(text),
            "user" => self.say(Message::user(text)),
            "assistant" if item.phase.as_deref() == Some("commentary") => {
                self.say(Message::assistant_preamble(text));
            }
            "assistant" => self.say(Message::assistant_final(text)),
            other => {
                let allowed = ["user", "assistant", "system", "developer"];
                return Err(ApiError::invalid_value(format!("{param}.role"), other, &allowed));
            }
        }
        Ok(())
    }

    /// The chain of thought itself if it is there, else its summary.
    fn push_reasoning_item(&mut self, param: &str, item: &InputItem) -> Result<(), ApiError> {
        let text = match &item.content {
            Some(found) => content::text(&format!("{param}.content"), found)?,
            None => String::new(),
        };
        let text = match (&item.summary, text.is_empty()) {
            (Some(summary), true) => content::parts_text(&format!("{param}.summary"), summary)?,
            _ => text,
        };
        if !text.is_empty() {
            self.say(Message::assistant_analysis(text));
        }
        Ok(())
    }

    /// The summary that a compaction made, which was sealed for the client.
    fn push_compaction_item(&mut self, param: &str, item: &InputItem) -> Result<(), ApiError> {
        let summary = item.summary.as_deref().unwrap_or_default();
        let text = content::parts_text(&format!("{param}.summary"), summary)?;
        self.instruct(format!("{COMPACTED}{text}"));
        Ok(())
    }

    fn push_call_item(&mut self, param: &str, item: &InputItem) -> Result<(), ApiError> {
        let custom = item.kind.as_deref() == Some("custom_tool_call");
        let (field, content) = if custom { ("input", &item.input) } else { ("arguments", &item.arguments) };
        let name = item.name.as_ref().ok_or_else(|| ApiError::missing(format!("{param}.name")))?;
        let call_id = item.call_id.as_ref().ok_or_else(|| ApiError::missing(format!("{param}.call_id")))?;
        let content = content.as_ref().ok_or_else(|| ApiError::missing(format!("{param}.{field}")))?;
        self.call(call_id, recipient(item.namespace.as_deref(), name), custom, content);
        Ok(())
    }

    fn push_output_item(&mut self, param: &str, item: &InputItem) -> Result<(), ApiError> {
        let output = || {
            let param = format!("{param}.output");
            content::text(&param, item.output.as_ref().ok_or_else(|| ApiError::missing(&*param))?)
        };
        match (&item.call_id, &item.name) {
            (Some(id), _) if self.has_called(id) => self.answer(id, output()?),
            (_, Some(name)) => {
                let recipient = recipient(item.namespace.as_deref(), name);
                self.say(Message::call_result(recipient, output()?));
            }
            (None, None) => return Err(ApiError::missing(format!("{param}.call_id"))),
            (Some(id), None) => {
                let message = format!("No tool call found for function call output with call_id {id}.");
                return Err(ApiError::invalid(format!("{param}.call_id"), "invalid_value", message));
            }
        }
        Ok(())
    }
}
