//! From a conversation to token ids.

mod developer;
mod retention;
mod system;
mod tools;
mod typescript;

use crate::{Conversation, Message, Role, SpecialToken, Tokenizer};

const CONSTRAIN: &str = "<|constrain|>";

impl Conversation {
    /// The prompt: everything said so far, then `<|start|>assistant`.
    ///
    /// The chain of thought of completed turns is left out: every message on the analysis channel that stands before
    /// the last final message. What was thought since then, inside the current tool loop, is kept.
    pub fn render_prompt(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut writer = self.render(tokenizer, &self.messages);
        writer.special(SpecialToken::Start);
        writer.text(Role::Assistant.as_str());
        writer.ids
    }

    /// The conversation as a training example: nothing is appended, the last turn keeps its chain of thought, and a
    /// final message at the end ends in `<|return|>`, as the model shall write it.
    pub fn render_training(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let Some((last, before)) = self.messages.split_last() else {
            return self.render(tokenizer, &[]).ids;
        };
        let mut writer = self.render(tokenizer, before);
        writer.message(last);
        if last.is_final() {
            writer.ids.pop();
            writer.special(SpecialToken::Return);
        }
        writer.ids
    }

    fn render<'a>(&self, tokenizer: &'a Tokenizer, messages: &[Message]) -> Writer<'a> {
        let mut writer = Writer { tokenizer, ids: Vec::new() };
        writer.plain_message(Role::System, &system::text(&self.system, &self.developer));
        if !self.developer.is_empty() {
            writer.plain_message(Role::Developer, &developer::text(&self.developer));
        }
        for message in retention::retained(messages) {
            writer.message(message);
        }
        writer
    }
}

/// Collects token ids. Each piece of text is encoded on its own, as the reference renderer does.
struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
}

impl Writer<'_> {
    fn special(&mut self, token: SpecialToken) {
        self.ids.push(self.tokenizer.special(token));
    }

    fn text(&mut self, text: &str) {
        self.tokenizer.encode_ordinary_into(text, &mut self.ids);
    }

    fn plain_message(&mut self, role: Role, content: &str) {
        self.special(SpecialToken::Start);
        self.text(role.as_str());
        self.special(SpecialToken::Message);
        self.text(content);
        self.special(SpecialToken::End);
    }

    /// `<|start|>author to=recipient<|channel|>channel content_type<|message|>content<|end|>`
    fn message(&mut self, message: &Message) {
        let recipient = message.recipient.as_deref().filter(|&recipient| recipient != "all");
        self.special(SpecialToken::Start);
        self.author(message);
        if let Some(recipient) = recipient {
            self.text(&format!(" to={recipient}"));
        }
        if let Some(channel) = message.channel {
            self.special(SpecialToken::Channel);
            self.text(channel.as_str());
        }
        if let Some(content_type) = &message.content_type {
            self.content_type(content_type);
        }
        self.special(SpecialToken::Message);
        self.text(&message.content);
        let is_call = message.author.role == Role::Assistant && recipient.is_some();
        self.special(if is_call { SpecialToken::Call } else { SpecialToken::End });
    }

    fn author(&mut self, message: &Message) {
        match (message.author.role, message.author.name.as_deref()) {
            (Role::Tool, Some(name)) => self.text(name),
            (role, name) => {
                self.text(role.as_str());
                if let Some(name) = name {
                    self.text(&format!(":{name}"));
                }
            }
        }
    }

    fn content_type(&mut self, content_type: &str) {
        match content_type.strip_prefix(CONSTRAIN) {
            Some(constraint) => {
                self.text(" ");
                self.special(SpecialToken::Constrain);
                self.text(constraint);
            }
            None => self.text(&format!(" {content_type}")),
        }
    }
}
