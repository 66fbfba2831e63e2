//! Reading a message's header, whatever it holds.

use super::event::{EndReason, Header};
use crate::{Author, Channel, Role};

/// What introduces a segment of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    /// `<|start|>`: a role follows.
    Role,
    /// `<|start|>assistant`, which the prompt ended with.
    AfterRole,
    /// Nothing: `<|start|>` is missing.
    Bare,
    /// `<|channel|>`.
    Channel,
    /// `<|constrain|>`.
    Constrain,
}

/// A header as it came: bytes between markers.
#[derive(Clone, Debug)]
pub(super) struct RawHeader {
    segments: Vec<(Marker, Vec<u8>)>,
    num_text_tokens: usize,
}

impl RawHeader {
    pub(super) fn new(marker: Marker) -> Self {
        Self { segments: vec![(marker, Vec::new())], num_text_tokens: 0 }
    }

    pub(super) fn push_marker(&mut self, marker: Marker) {
        self.segments.push((marker, Vec::new()));
    }

    pub(super) fn push_text(&mut self, bytes: &[u8]) {
        self.num_text_tokens += 1;
        if let Some((_, segment)) = self.segments.last_mut() {
            segment.extend_from_slice(bytes);
        }
    }

    pub(super) fn num_text_tokens(&self) -> usize {
        self.num_text_tokens
    }

    /// The header before `<|message|>`, and text that stands in it by mistake.
    pub(super) fn read_complete(&self) -> (Header, String) {
        let mut reader = self.read(false);
        let mut text = String::new();
        if reader.recipient.is_some() || reader.extra.len() < 2 {
            // Words after a recipient (or one word after a channel) say what the content is, as in `code` or `json`.
            reader.content_type =
                reader.content_type.into_iter().chain(reader.extra.drain(..)).reduce(|a, b| a + " " + &b);
        } else {
            text = reader.extra.join(" ");
        }
        (reader.header(Channel::Final), text)
    }

    /// The message that a header is when `reason` came before any `<|message|>`: its text is what is no header.
    /// `None` if nothing is left to say.
    pub(super) fn read_cut(&self, reason: EndReason) -> Option<(Header, String)> {
        let reader = self.read(true);
        let text = reader.extra.join(" ");
        let is_call = reader.recipient.is_some() && reason != EndReason::Truncated;
        let default = if reason == EndReason::End { Channel::Analysis } else { Channel::Final };
        let header = reader.header(default);
        (!text.is_empty() || (is_call && header.recipient.is_some())).then_some((header, text))
    }

    fn read(&self, is_cut: bool) -> Reader {
        let mut reader = Reader { is_cut, ..Reader::default() };
        for (marker, bytes) in &self.segments {
            reader.read_segment(*marker, &String::from_utf8_lossy(bytes));
        }
        reader
    }
}

/// What has been read of a header so far.
#[derive(Default)]
struct Reader {
    /// Whether the header ended without `<|message|>`, so that words of no meaning are text to the end.
    is_cut: bool,
    author: Option<Author>,
    channel: Option<Channel>,
    unknown_channel: Option<String>,
    recipient: Option<String>,
    content_type: Option<String>,
    /// What has no place in a header: words, or the rest of a segment if the header was cut.
    extra: Vec<String>,
}

impl Reader {
    fn read_segment(&mut self, marker: Marker, text: &str) {
        let mut marker = Some(marker);
        let mut rest = text.trim_start();
        while !rest.is_empty() {
            let (word, after) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
            let after = after.trim_start();
            match self.read_word(marker.take(), word, after) {
                Some(unread) if self.is_cut => {
                    self.extra.push(rest[word.len() - unread.len()..].to_owned());
                    return;
                }
                Some(unread) => self.extra.push(unread.to_owned()),
                None => {}
            }
            rest = after;
        }
    }

    /// Reads one word; `marker` is there for the first one of a segment. Returns the end of it that means nothing.
    fn read_word<'a>(&mut self, marker: Option<Marker>, word: &'a str, after: &str) -> Option<&'a str> {
        if let Some(at) = word.find("to=") {
            let (before, recipient) = (&word[..at], &word[at + 3..]);
            if before.is_empty() || channel_in(before).is_some() || Role::parse(before).is_some() {
                if !before.is_empty() {
                    self.read_word(marker, before, "to=");
                }
                self.read_recipient(recipient);
                return None;
            }
        }
        if self.recipient.as_deref() == Some("") {
            self.recipient = Some(word.to_owned());
            return None;
        }
        match marker {
            Some(Marker::Role) => self.read_role(word, after),
            Some(Marker::Channel) => self.read_channel(word),
            Some(Marker::Constrain) => self.read_content_type(word),
            Some(Marker::AfterRole) if word == Role::Assistant.as_str() && !self.is_cut => None,
            _ => self.read_bare_word(word, after),
        }
    }

    /// The first recipient counts; the model is known to repeat it. `to= name` is forgiven.
    fn read_recipient(&mut self, recipient: &str) {
        match self.recipient.as_deref() {
            None | Some("") => self.recipient = Some(recipient.to_owned()),
            Some(first) if first == recipient => {}
            Some(_) => self.extra.push(format!("to={recipient}")),
        }
    }

    fn read_role<'a>(&mut self, word: &'a str, after: &str) -> Option<&'a str> {
        let is_answer = after.starts_with("to=assistant");
        let is_tool = is_answer || (!self.is_cut && (word == "python" || is_dotted_name(word)));
        if let Some(role) = Role::parse(word) {
            self.author = Some(role.into());
        } else if is_tool {
            self.author = Some(Author { role: Role::Tool, name: Some(word.to_owned()) });
        } else {
            return self.read_bare_word(word, after);
        }
        None
    }

    fn read_channel<'a>(&mut self, word: &'a str) -> Option<&'a str> {
        match channel_in(word) {
            Some(channel) => self.channel = Some(channel),
            None if !self.is_cut => {
                self.unknown_channel = self
                    .unknown_channel
                    .take()
                    .into_iter()
                    .chain([word.to_owned()])
                    .reduce(|a, b| a + " " + &b);
            }
            // Cut in the middle of a channel's name: no text of anybody's.
            None if Channel::ALL.iter().any(|channel| channel.as_str().starts_with(word)) => {}
            None => return Some(word),
        }
        None
    }

    /// In a header that was cut, what follows `<|constrain|>` may be text: only the usual types are believed.
    fn read_content_type<'a>(&mut self, word: &'a str) -> Option<&'a str> {
        let len = if self.is_cut {
            word.find(|c: char| !c.is_alphanumeric()).unwrap_or(word.len())
        } else {
            word.len()
        };
        let (name, unread) = word.split_at(len);
        let is_believed =
            !self.is_cut || ["json", "code", "text"].iter().any(|usual| usual.starts_with(name));
        match channel_in(name) {
            _ if self.content_type.is_some() || !is_believed => return Some(word),
            Some(channel) if self.channel.is_none() => self.channel = Some(channel),
            _ => self.content_type = Some(format!("<|constrain|>{name}")),
        }
        (!unread.is_empty()).then_some(unread)
    }

    /// A channel's name without `<|channel|>` is believed if the header is whole, or a recipient follows.
    fn read_bare_word<'a>(&mut self, word: &'a str, after: &str) -> Option<&'a str> {
        let is_believed = self.channel.is_none() && (!self.is_cut || after.starts_with("to="));
        match Channel::parse(word).filter(|_| is_believed) {
            Some(channel) => self.channel = Some(channel),
            None => return Some(word),
        }
        None
    }

    fn header(self, default: Channel) -> Header {
        let author = self.author.unwrap_or(Role::Assistant.into());
        let is_somebody = |name: &str| matches!(name, "all" | "user" | "assistant");
        let is_tool =
            |name: &String| !name.is_empty() && (author.role != Role::Assistant || !is_somebody(name));
        let recipient = self.recipient.filter(is_tool);
        let default = match (&recipient, &self.unknown_channel) {
            (Some(_), _) => Channel::Commentary,
            (None, Some(_)) => Channel::Final,
            (None, None) => default,
        };
        Header {
            author,
            channel: self.channel.unwrap_or(default),
            unknown_channel: self.unknown_channel,
            recipient,
            content_type: self.content_type,
        }
    }
}

/// The channel that `word` means: dashes and capitals are forgiven.
fn channel_in(word: &str) -> Option<Channel> {
    let name = word.trim_matches(|c: char| !c.is_alphanumeric());
    Channel::ALL.into_iter().find(|channel| name.eq_ignore_ascii_case(channel.as_str()))
}

/// `functions.get_weather`, `browser.search`.
fn is_dotted_name(word: &str) -> bool {
    let is_part =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    word.contains('.') && word.split('.').all(is_part)
}
