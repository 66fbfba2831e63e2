//! What the parser reports.

use crate::{Author, Channel};

/// One step of the stream. A message is `MessageStart`, any number of `Delta`s, `MessageEnd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParserEvent {
    /// A message begins.
    MessageStart(Header),
    /// More of its text; never empty, never part of a character.
    Delta(String),
    /// The message is over.
    MessageEnd(MessageEnd),
}

/// The header of a message, as far as it could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The assistant, unless the model went on to write somebody else's message.
    pub author: Author,
    /// Where the message goes. A header without a channel, or with an unknown one, counts as final; a call without
    /// one as commentary.
    pub channel: Channel,
    /// The channel as the model spelled it, when that is not one of the three.
    pub unknown_channel: Option<String>,
    /// The tool that is called, such as `functions.get_weather`.
    pub recipient: Option<String>,
    /// As in [`Message::content_type`](crate::Message::content_type).
    pub content_type: Option<String>,
}

impl Header {
    /// The name of the function that this message calls, whatever its channel: the recipient without `functions.`.
    pub fn function_name(&self) -> Option<&str> {
        self.recipient.as_deref()?.strip_prefix("functions.")
    }
}

/// How a message ended, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageEnd {
    /// What ended it.
    pub reason: EndReason,
    /// Tokens of the message: header, content and the token that ended it. Over all messages of a stream they add up
    /// to the tokens of the stream, except for tokens after the last message.
    pub num_tokens: usize,
    /// Tokens of its content only.
    pub num_content_tokens: usize,
}

/// What ended a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// `<|end|>`, or the beginning of another message without it.
    End,
    /// `<|return|>` or `<|endoftext|>`: the turn is over.
    Return,
    /// `<|call|>`: the turn is over until the tool has answered.
    Call,
    /// The stream ended first.
    Truncated,
}
