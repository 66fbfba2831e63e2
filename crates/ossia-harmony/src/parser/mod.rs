//! A streaming parser that accepts every sequence of tokens.
//!
//! How malformed output is read (each rule is a row of the table test):
//! - Text that stands where a header should be, and is never followed by `<|message|>`, is the text of a message: on
//!   the channel the header names; without one, chain of thought if `<|end|>` follows, else the answer.
//! - A channel that is none of the three counts as final; dashes, dots and capitals around a channel's name are
//!   forgiven. A recipient makes a call on any channel.
//! - `<|start|>` or `<|channel|>` inside a message begins the next one. Other special tokens inside a message are
//!   dropped; they never become text.
//! - After the end of a message, `<|start|>` may be missing.

mod event;
mod header;

pub use event::{EndReason, Header, MessageEnd, ParserEvent};

use crate::{Detokenizer, SpecialToken, Tokenizer};
use header::{Marker, RawHeader};

/// Turns the tokens that follow `<|start|>assistant` into messages.
///
/// Total: every sequence of tokens gives a valid stream of events, in which each `MessageStart` has one `MessageEnd`
/// and no text is lost.
#[derive(Clone, Debug)]
pub struct StreamableParser {
    tokenizer: Tokenizer,
    state: State,
    /// Tokens since the end of the last message.
    num_tokens: usize,
}

#[derive(Clone, Debug)]
enum State {
    /// After the end of a message.
    Between,
    /// In a header that has not yet ended.
    Header(RawHeader),
    /// In a message's content.
    Content(Content),
}

#[derive(Clone, Debug, Default)]
struct Content {
    detokenizer: Detokenizer,
    num_tokens: usize,
}

impl StreamableParser {
    /// A parser at the point where the prompt ends, after `<|start|>assistant`.
    pub fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, state: State::Header(RawHeader::new(Marker::AfterRole)), num_tokens: 0 }
    }

    /// Takes the next token and returns what it brought: often nothing, mostly one `Delta`.
    pub fn push(&mut self, token: u32) -> Vec<ParserEvent> {
        let mut events = Vec::new();
        self.num_tokens += 1;
        match self.tokenizer.is_special(token) {
            Some(special) => self.push_special(special, &mut events),
            None if self.tokenizer.vocab().is_control(token) => {}
            None => self.push_text(token, &mut events),
        }
        events
    }

    /// Ends the stream: the message under way, if any, is truncated.
    pub fn finish(&mut self) -> Vec<ParserEvent> {
        let mut events = Vec::new();
        self.end_message(EndReason::Truncated, &mut events);
        events
    }

    fn push_text(&mut self, token: u32, events: &mut Vec<ParserEvent>) {
        let bytes = self.tokenizer.token_bytes(token);
        match &mut self.state {
            State::Between => {
                let mut header = RawHeader::new(Marker::Bare);
                header.push_text(bytes);
                self.state = State::Header(header);
            }
            State::Header(header) => header.push_text(bytes),
            State::Content(content) => {
                content.num_tokens += 1;
                push_delta(content.detokenizer.push(bytes), events);
            }
        }
    }

    fn push_special(&mut self, special: SpecialToken, events: &mut Vec<ParserEvent>) {
        match special {
            SpecialToken::End => self.end_message(EndReason::End, events),
            SpecialToken::Return | SpecialToken::EndOfText => self.end_message(EndReason::Return, events),
            SpecialToken::Call => self.end_message(EndReason::Call, events),
            SpecialToken::Start => self.begin_header(Marker::Role, events),
            SpecialToken::Channel => self.push_marker(Marker::Channel, events),
            SpecialToken::Constrain if matches!(self.state, State::Content(_)) => {}
            SpecialToken::Constrain => self.push_marker(Marker::Constrain, events),
            SpecialToken::Message => self.begin_content(events),
            SpecialToken::StartOfText => {}
        }
    }

    /// `<|start|>`: whatever is under way ends here. The token itself belongs to the new header.
    fn begin_header(&mut self, marker: Marker, events: &mut Vec<ParserEvent>) {
        self.num_tokens -= 1;
        self.end_message(EndReason::End, events);
        self.num_tokens += 1;
        self.state = State::Header(RawHeader::new(marker));
    }

    /// `<|channel|>` or `<|constrain|>`: a part of the header under way, or the beginning of one.
    fn push_marker(&mut self, marker: Marker, events: &mut Vec<ParserEvent>) {
        if !matches!(self.state, State::Header(_)) {
            self.begin_header(Marker::AfterRole, events);
        }
        if let State::Header(header) = &mut self.state {
            header.push_marker(marker);
        }
    }

    /// `<|message|>`: the header is complete. Inside content it means nothing.
    fn begin_content(&mut self, events: &mut Vec<ParserEvent>) {
        let (header, text) = match &self.state {
            State::Content(_) => return,
            State::Header(raw) => raw.read_complete(),
            State::Between => RawHeader::new(Marker::Bare).read_complete(),
        };
        events.push(ParserEvent::MessageStart(header));
        push_delta(text, events);
        self.state = State::Content(Content::default());
    }

    fn end_message(&mut self, reason: EndReason, events: &mut Vec<ParserEvent>) {
        let num_content_tokens = match std::mem::replace(&mut self.state, State::Between) {
            State::Between => return,
            State::Header(raw) => {
                let Some((header, text)) = raw.read_cut(reason) else { return };
                events.push(ParserEvent::MessageStart(header));
                push_delta(text, events);
                raw.num_text_tokens()
            }
            State::Content(mut content) => {
                push_delta(content.detokenizer.finish(), events);
                content.num_tokens
            }
        };
        let num_tokens = std::mem::take(&mut self.num_tokens);
        events.push(ParserEvent::MessageEnd(MessageEnd { reason, num_tokens, num_content_tokens }));
    }
}

fn push_delta(text: String, events: &mut Vec<ParserEvent>) {
    if !text.is_empty() {
        events.push(ParserEvent::Delta(text));
    }
}
