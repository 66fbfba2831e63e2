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
    /// The calls so far, by their ids.
    calls: HashMap<String, Call>,
    /// The calls, by number, whose results are the last messages.
    answered: Vec<usize>,
}

/// A call that the assistant made.
#[derive(Debug)]
struct Call {
    recipient: String,
    /// Its place among all calls.
    number: usize,
}

impl Dialogue {
    /// A system or developer message. Later ones keep their place in the dialogue.
    pub(crate) fn instruct(&mut self, text: String) {
        if self.messages.is_empty() {
            self.instructions.push(text);
        } else {
            self.say(Message::developer(text));
        }
    }

    /// Any other message.
    pub(crate) fn say(&mut self, message: Message) {
        self.answered.clear();
        self.messages.push(message);
    }

    /// A call that the assistant made; of a `custom` tool its text, else its arguments as JSON.
    pub(crate) fn call(&mut self, id: &str, recipient: String, custom: bool, content: &str) {
        let new = if custom { Message::text_call } else { Message::call };
        self.say(new(recipient.clone(), content));
        let number = self.calls.len();
        self.calls.insert(id.to_owned(), Call { recipient, number });
    }

    /// Whether there was a call of this id.
    pub(crate) fn has_called(&self, id: &str) -> bool {
        self.calls.contains_key(id)
    }

    /// The result of the call `id`, if there was one. Harmony has no ids, so that the results of several calls have to
    /// stand in the order of the calls, in whichever order they come.
    pub(crate) fn answer(&mut self, id: &str, result: String) {
        let Some(Call { recipient, number }) = self.calls.get(id) else { return };
        let num_earlier = self.answered.partition_point(|answered| answered <= number);
        let at = self.messages.len() - (self.answered.len() - num_earlier);
        self.messages.insert(at, Message::call_result(recipient, result));
        self.answered.insert(num_earlier, *number);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_their_calls() {
        let cases: [(&[&str], &str); 5] = [
            (&["a", "b", "c"], "a b c"),
            (&["c", "b", "a"], "a b c"),
            (&["b", "c", "a"], "a b c"),
            (&["c", "a"], "a c"),
            // What was said in between parts them, and an unknown call has no result.
            (&["c", "-", "b", "x", "a"], "c - a b"),
        ];
        for (answers, expected) in cases {
            let mut dialogue = Dialogue::default();
            for id in ["a", "b", "c"] {
                dialogue.call(id, "functions.f".to_owned(), false, "{}");
            }
            for id in answers {
                match *id {
                    "-" => dialogue.say(Message::user("-")),
                    id => dialogue.answer(id, id.to_owned()),
                }
            }
            let said = dialogue.messages[3..].iter().map(|message| message.content.as_str());
            assert_eq!(said.collect::<Vec<_>>().join(" "), expected, "{answers:?}");
        }
    }
}
