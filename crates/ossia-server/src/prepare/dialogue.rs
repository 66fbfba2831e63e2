//! The dialogue of a request, whichever API it came through, on its way to a harmony conversation.

use std::collections::HashMap;

use ossia_harmony::{Conversation, DeveloperContent, Message, ResponseFormat, SystemContent};

use super::effort::Effort;
use super::tools::ToolPlan;

/// What the messages or items of a request become.
#[derive(Debug, Default)]
pub(crate) struct Dialogue {
    /// Texts for the developer message: what stands before the first message of anybody else.
    instructions: Vec<String>,
    messages: Vec<Message>,
    /// Recipients of the calls so far, by the id of the call.
    recipients: HashMap<String, String>,
}

impl Dialogue {
    /// A system or developer message. Later ones keep their place in the dialogue.
    pub(crate) fn instruct(&mut self, text: String) {
        if self.messages.is_empty() {
            self.instructions.push(text);
        } else {
            self.messages.push(Message::developer(text));
        }
    }

    /// Any other message.
    pub(crate) fn say(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// A call that the assistant made; of a `custom` tool its text, else its arguments as JSON.
    pub(crate) fn call(&mut self, id: &str, recipient: String, custom: bool, content: &str) {
        let new = if custom { Message::text_call } else { Message::call };
        self.messages.push(new(recipient.clone(), content));
        self.recipients.insert(id.to_owned(), recipient);
    }

    /// The recipient of the call `id`.
    pub(crate) fn recipient(&self, id: &str) -> Option<&str> {
        self.recipients.get(id).map(String::as_str)
    }

    /// The conversation; `closing` is one more instruction, `format` that of the answer, `date` today's in the system
    /// message.
    pub(crate) fn into_conversation(
        mut self,
        effort: Effort,
        closing: Option<&str>,
        tools: &ToolPlan,
        format: Option<&ResponseFormat>,
        date: String,
    ) -> Conversation {
        self.instructions.extend(closing.map(str::to_owned));
        let instructions = (!self.instructions.is_empty()).then(|| self.instructions.join("\n\n"));
        let system = SystemContent {
            current_date: Some(date),
            reasoning_effort: effort.level,
            ..SystemContent::default()
        };
        let developer = DeveloperContent {
            instructions,
            tools: tools.tools.clone(),
            namespaces: tools.namespaces.clone(),
            response_format: format.cloned(),
        };
        Conversation { system, developer, messages: self.messages }
    }
}

/// What stands in the header of a call of `name`.
pub(crate) fn recipient(namespace: Option<&str>, name: &str) -> String {
    format!("{}.{name}", namespace.unwrap_or("functions"))
}
