//! Chat messages into a harmony dialogue.

use ossia_harmony::Message;

use super::content;
use super::dialogue::{Dialogue, recipient};
use crate::error::ApiError;
use crate::wire::chat::{ChatMessage, ChatRole, ToolCall};

/// Converts all messages.
///
/// # Errors
/// 400 naming the message's field that is missing, of the wrong kind, or refers to an unknown call.
pub(crate) fn dialogue(messages: &[ChatMessage]) -> Result<Dialogue, ApiError> {
    let mut dialogue = Dialogue::default();
    for (i, message) in messages.iter().enumerate() {
        dialogue.push_chat_message(&format!("messages[{i}]"), message)?;
    }
    Ok(dialogue)
}

impl Dialogue {
    fn push_chat_message(&mut self, param: &str, message: &ChatMessage) -> Result<(), ApiError> {
        match message.role {
            ChatRole::System | ChatRole::Developer => {
                let text = required_text(param, message)?;
                self.instruct(text);
            }
            ChatRole::User => {
                let mut user = Message::user(required_text(param, message)?);
                user.author.name = message.name.clone();
                self.say(user);
            }
            ChatRole::Assistant => self.push_assistant_message(param, message)?,
            ChatRole::Tool => self.push_tool_message(param, message)?,
            ChatRole::Function => {
                let name =
                    message.name.as_deref().ok_or_else(|| ApiError::missing(format!("{param}.name")))?;
                let text =
                    message.content.as_ref().map(|found| content::text(&format!("{param}.content"), found));
                self.say(Message::tool_result(name, text.transpose()?.unwrap_or_default()));
            }
        }
        Ok(())
    }

    /// Reasoning, text, calls, in the order in which the model produces them.
    fn push_assistant_message(&mut self, param: &str, message: &ChatMessage) -> Result<(), ApiError> {
        if message.audio.is_some() {
            let reason = "The model reads and writes text only: send the audio's transcript as 'content'.";
            return Err(ApiError::unsupported(format!("{param}.audio"), reason));
        }
        let calls = message.tool_calls.as_deref().unwrap_or_default();
        let has_calls = !calls.is_empty() || message.function_call.is_some();
        if message.content.is_none() && message.refusal.is_none() && !has_calls {
            return Err(ApiError::missing(format!("{param}.content")));
        }
        let reasoning = message.reasoning.as_deref().or(message.reasoning_content.as_deref());
        if let Some(reasoning) = reasoning.filter(|text| !text.is_empty()) {
            self.say(Message::assistant_analysis(reasoning));
        }
        if let Some(text) = assistant_text(param, message, has_calls)? {
            let new = if has_calls { Message::assistant_preamble } else { Message::assistant_final };
            self.say(new(text));
        }
        for (i, call) in calls.iter().enumerate() {
            self.push_chat_call(&format!("{param}.tool_calls[{i}]"), call)?;
        }
        if let Some(call) = &message.function_call {
            self.say(Message::function_call(&call.name, &call.arguments));
        }
        Ok(())
    }

    fn push_chat_call(&mut self, param: &str, call: &ToolCall) -> Result<(), ApiError> {
        let (name, custom, content) = match (call.kind.as_str(), &call.function, &call.custom) {
            ("function", Some(function), _) => (&function.name, false, &function.arguments),
            ("custom", _, Some(custom)) => (&custom.name, true, &custom.input),
            (kind @ ("function" | "custom"), ..) => return Err(ApiError::missing(format!("{param}.{kind}"))),
            (other, ..) => {
                return Err(ApiError::invalid_value(format!("{param}.type"), other, &["function", "custom"]));
            }
        };
        self.call(&call.id, recipient(None, name), custom, content);
        Ok(())
    }

    fn push_tool_message(&mut self, param: &str, message: &ChatMessage) -> Result<(), ApiError> {
        let id_param = format!("{param}.tool_call_id");
        let id = message.tool_call_id.as_deref().ok_or_else(|| ApiError::missing(&*id_param))?;
        if !self.has_called(id) {
            let message = format!(
                "Invalid '{id_param}': no preceding assistant message has a tool call with id '{id}'."
            );
            return Err(ApiError::invalid(id_param, "invalid_value", message));
        }
        self.answer(id, required_text(param, message)?);
        Ok(())
    }
}

fn required_text(param: &str, message: &ChatMessage) -> Result<String, ApiError> {
    let param = format!("{param}.content");
    match &message.content {
        Some(found) => content::text(&param, found),
        None => Err(ApiError::missing(param)),
    }
}

/// An empty text beside calls says nothing and is left out.
fn assistant_text(param: &str, message: &ChatMessage, has_calls: bool) -> Result<Option<String>, ApiError> {
    let text = match (&message.content, &message.refusal) {
        (Some(found), _) => Some(content::text(&format!("{param}.content"), found)?),
        (None, refusal) => refusal.clone(),
    };
    Ok(text.filter(|text| !(has_calls && text.is_empty())))
}
