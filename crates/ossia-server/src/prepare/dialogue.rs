//! The dialogue of a request, whichever API it came through, on its way to a harmony conversation.

use std::collections::HashMap;

use ossia_harmony::{Conversation, DeveloperContent, Message, SystemContent};

use super::effort::Effort;
use super::tools::ToolPlan;

/// What the messages or items of a request become.
#[derive(Debug, Default)]
pub(crate) struct Dialogue {
    /// Texts for the developer message: what stands before the first message of anybody else.
    instructions: Vec<String>,
    messages: Vec<Message>,
    /// Names of the functions called so far, by the id of the call.
    call_names: HashMap<String, String>,
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

    /// A call that the assistant made.
    pub(crate) fn call(&mut self, id: &str, name: &str, arguments: &str) {
        self.call_names.insert(id.to_owned(), name.to_owned());
        self.messages.push(Message::function_call(name, arguments));
    }

    /// The function that the call `id` called.
    pub(crate) fn call_name(&self, id: &str) -> Option<&str> {
        self.call_names.get(id).map(String::as_str)
    }

    /// The conversation; `closing` is one more instruction, `date` today's in the system message.
    pub(crate) fn into_conversation(
        mut self,
        effort: Effort,
        closing: Option<&str>,
        tools: &ToolPlan,
        date: String,
    ) -> Conversation {
        self.instructions.extend(closing.map(str::to_owned));
        let instructions = (!self.instructions.is_empty()).then(|| self.instructions.join("\n\n"));
        let system = SystemContent {
            current_date: Some(date),
            reasoning_effort: effort.level,
            ..SystemContent::default()
        };
        let developer =
            DeveloperContent { instructions, tools: tools.tools.clone(), ..DeveloperContent::default() };
        Conversation { system, developer, messages: self.messages }
    }
}
