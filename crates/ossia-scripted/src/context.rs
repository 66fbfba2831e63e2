//! Reading a context of token ids: where the prompt ends, and what it says.

use ossia_harmony::{SpecialToken, Tokenizer};

/// Token ids that structure a context.
#[derive(Debug)]
pub(crate) struct Marks {
    start: u32,
    end: u32,
    message: u32,
    assistant: Vec<u32>,
    final_channel: Vec<u32>,
}

/// What a prompt says, as far as an answer needs it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Prompt {
    pub(crate) developer: String,
    pub(crate) last_user: String,
    /// Results of tools after the last user message.
    pub(crate) tool_results: Vec<String>,
}

impl Marks {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let channel = tokenizer.special(SpecialToken::Channel);
        let mut final_channel = vec![channel];
        final_channel.extend(tokenizer.encode_ordinary("final"));
        Self {
            start: tokenizer.special(SpecialToken::Start),
            end: tokenizer.special(SpecialToken::End),
            message: tokenizer.special(SpecialToken::Message),
            assistant: tokenizer.encode_ordinary("assistant"),
            final_channel,
        }
    }

    /// Where the prompt may end inside `context`, first to last; never empty.
    ///
    /// It ends at a `<|start|>assistant`: the first one after everybody else's messages, unless what follows it is
    /// what a client sent back. A final message that `<|end|>` closes and an analysis without text look like that,
    /// for a model ends its answer in `<|return|>`; but a rule may write them too.
    pub(crate) fn prompt_ends(&self, context: &[u32]) -> Vec<usize> {
        let mut ends = Vec::new();
        let mut turn = None;
        let mut at = 0;
        while at < context.len() {
            let token = context[at];
            at += 1;
            if token == self.start && context[at..].starts_with(&self.assistant) {
                if turn.is_none() {
                    turn = Some(at + self.assistant.len());
                    ends.extend(turn);
                }
            } else if token == self.start && !self.assistant.starts_with(&context[at..]) {
                // Somebody else's message; a role that is not written out yet can only be the assistant's.
                turn = None;
                ends.clear();
            } else if token == self.end && turn.is_some_and(|turn| self.is_history(&context[turn..at])) {
                turn = None;
            }
        }
        if ends.is_empty() { vec![context.len()] } else { ends }
    }

    /// The message that was begun last in what a turn generated, after its `<|start|>assistant`.
    pub(crate) fn last_message<'a>(&self, generated: &'a [u32]) -> &'a [u32] {
        match generated.iter().rposition(|&token| token == self.start) {
            Some(at) => generated[at + 1..].strip_prefix(self.assistant.as_slice()).unwrap_or(generated),
            None => generated,
        }
    }

    /// Whether `generated`, which ends in `<|end|>`, can only be what a client sent back.
    fn is_history(&self, generated: &[u32]) -> bool {
        let empty = [self.message, self.end];
        let last =
            generated.iter().rposition(|&token| token == self.start).map_or(generated, |at| &generated[at..]);
        let header = last.split(|&token| token == self.message).next().unwrap_or_default();
        last.ends_with(&empty) || contains(header, &self.final_channel)
    }

    /// Reads a prompt.
    pub(crate) fn read(&self, tokenizer: &Tokenizer, prompt: &[u32]) -> Prompt {
        let mut read = Prompt::default();
        for message in prompt.split(|&token| token == self.start).skip(1) {
            let Some(split) = message.iter().position(|&token| token == self.message) else { continue };
            let header = tokenizer.decode(&message[..split]);
            let body = &message[split + 1..];
            let body = body.strip_suffix(&[self.end]).unwrap_or(body);
            read.push(&header, tokenizer.decode(body));
        }
        read
    }
}

impl Prompt {
    fn push(&mut self, header: &str, body: String) {
        let author_end = header.find([' ', ':', '<']).unwrap_or(header.len());
        match &header[..author_end] {
            "system" | "assistant" => {}
            "developer" => self.developer.push_str(&body),
            "user" => {
                self.last_user = body;
                self.tool_results.clear();
            }
            _tool => self.tool_results.push(body),
        }
    }
}

fn contains(haystack: &[u32], needle: &[u32]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
