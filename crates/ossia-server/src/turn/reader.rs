//! Generated tokens into messages: harmony through its parser, raw text as one answer.

use ossia_harmony::{
    Author, Channel, Detokenizer, EndReason, Header, MessageEnd, ParserEvent, Role, StreamableParser,
    Tokenizer,
};

/// What reads the tokens of a turn.
#[derive(Debug)]
pub(crate) enum Reader {
    /// Messages with headers.
    Harmony(StreamableParser),
    /// Text without structure.
    Raw(RawReader),
}

/// Reads all text as one message on the final channel.
#[derive(Debug)]
pub(crate) struct RawReader {
    tokenizer: Tokenizer,
    detokenizer: Detokenizer,
    /// Leave special tokens out of the text.
    skip_special_tokens: bool,
    num_tokens: usize,
}

impl Reader {
    /// Raw text.
    pub(crate) fn raw(tokenizer: Tokenizer, skip_special_tokens: bool) -> Self {
        Self::Raw(RawReader {
            tokenizer,
            detokenizer: Detokenizer::default(),
            skip_special_tokens,
            num_tokens: 0,
        })
    }

    /// What there is before the first token.
    pub(crate) fn start(&self) -> Vec<ParserEvent> {
        match self {
            Self::Harmony(_) => Vec::new(),
            Self::Raw(_) => vec![ParserEvent::MessageStart(Header {
                author: Author::from(Role::Assistant),
                channel: Channel::Final,
                unknown_channel: None,
                recipient: None,
                content_type: None,
            })],
        }
    }

    /// What a token brings.
    pub(crate) fn push(&mut self, token: u32) -> Vec<ParserEvent> {
        match self {
            Self::Harmony(parser) => parser.push(token),
            Self::Raw(raw) => delta(raw.push(token)),
        }
    }

    /// What the end of the stream brings.
    pub(crate) fn finish(&mut self) -> Vec<ParserEvent> {
        match self {
            Self::Harmony(parser) => parser.finish(),
            Self::Raw(raw) => {
                let mut events = delta(raw.detokenizer.finish());
                let num_tokens = raw.num_tokens;
                let reason = EndReason::Truncated;
                events.push(ParserEvent::MessageEnd(MessageEnd {
                    reason,
                    num_tokens,
                    num_content_tokens: num_tokens,
                }));
                events
            }
        }
    }

    /// Whether a token is part of the text that goes out.
    pub(crate) fn is_text(&self, tokenizer: &Tokenizer, token: u32) -> bool {
        match self {
            Self::Harmony(_) => tokenizer.is_special(token).is_none(),
            Self::Raw(raw) => raw.is_text(token),
        }
    }
}

impl RawReader {
    fn push(&mut self, token: u32) -> String {
        self.num_tokens += 1;
        match self.is_text(token) {
            true => self.detokenizer.push(self.tokenizer.token_bytes(token)),
            false => String::new(),
        }
    }

    fn is_text(&self, token: u32) -> bool {
        !self.skip_special_tokens || self.tokenizer.control_token_ids().binary_search(&token).is_err()
    }
}

fn delta(text: String) -> Vec<ParserEvent> {
    if text.is_empty() { Vec::new() } else { vec![ParserEvent::Delta(text)] }
}
