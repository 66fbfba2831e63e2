//! The legal headers as a small graph over bytes and special tokens.

use super::EnvelopeOptions;
use crate::{Channel, HarmonyError, Role, SpecialToken};

/// The longest recipient, in bytes. OpenAI allows 64 for a function's name.
const MAX_RECIPIENT_LEN: usize = 256;

const NONE: u32 = u32::MAX;

/// One step through a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbol {
    Byte(u8),
    Special(SpecialToken),
}

/// The kinds of message content, which are the ends of all headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// On the analysis channel.
    Thought,
    /// On the commentary channel, for the user.
    Preamble,
    /// On the final channel.
    Answer,
    /// For a tool.
    Call,
}

impl Body {
    pub(super) const ALL: [Self; 4] = [Self::Thought, Self::Preamble, Self::Answer, Self::Call];

    /// The special tokens that may follow such content. Where several calls are allowed, `<|end|>` says that the turn
    /// goes on after this one, and `<|call|>` that the tools are to run.
    pub(super) fn ends(self, parallel_calls: bool) -> &'static [SpecialToken] {
        match self {
            Self::Thought | Self::Preamble => &[SpecialToken::End],
            Self::Answer => &[SpecialToken::Return],
            Self::Call if parallel_calls => &[SpecialToken::End, SpecialToken::Call],
            Self::Call => &[SpecialToken::Call],
        }
    }
}

/// A deterministic graph; its first nodes are the bodies, in the order of `Body::ALL`.
#[derive(Clone, Debug)]
pub(super) struct Language {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    /// After `<|start|>assistant`.
    pub(super) header: u32,
    /// After the `<|end|>` of a message, where only `<|start|>` may follow.
    pub(super) next_message: u32,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    first_edge: u32,
    /// Index of the recipient whose name ends here.
    recipient: u32,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    symbol: Symbol,
    to: u32,
    next_edge: u32,
}

impl Language {
    /// The language of a turn's headers:
    /// ```text
    /// header    = <|channel|> (analysis | commentary | final) <|message|>
    ///           | <|channel|> (analysis | commentary) " to=" recipient type <|message|>
    ///           | " to=" recipient <|channel|> (analysis | commentary) type <|message|>
    /// type      = "" | " code" | " json" | [" "] <|constrain|> "json"
    /// ```
    /// where `type` is "" or " code" for a recipient that takes text.
    ///
    /// A call is legal on both channels: the model has both habits, and its reader does not mind. Without analysis it
    /// is legal on commentary only, for a model that sets out to think must not end up in a call. Commentary without a
    /// recipient is a preamble.
    pub(super) fn new(options: &EnvelopeOptions) -> Result<Self, HarmonyError> {
        let has_tools = !options.recipients.is_empty();
        if !has_tools && !options.allow_final {
            return Err(HarmonyError::EmptyEnvelope);
        }
        options.recipients.iter().try_for_each(|recipient| check_recipient(recipient))?;
        let mut language = Self { nodes: Vec::new(), edges: Vec::new(), header: 0, next_message: 0 };
        let [thought, preamble, answer, call] = Body::ALL.map(|_| language.node());
        language.next_message = language.node();
        language.header = language.node();
        let role = language.node();
        language.special(language.next_message, SpecialToken::Start, role);
        language.text_to(role, Role::Assistant.as_str(), language.header);

        let channel = language.node();
        language.special(language.header, SpecialToken::Channel, channel);
        if options.allow_analysis {
            let named = language.text(channel, Channel::Analysis.as_str());
            language.special(named, SpecialToken::Message, thought);
        }
        if options.allow_final {
            let named = language.text(channel, Channel::Final.as_str());
            language.special(named, SpecialToken::Message, answer);
        }
        if has_tools {
            if options.allow_preamble {
                let named = language.text(channel, Channel::Commentary.as_str());
                language.special(named, SpecialToken::Message, preamble);
            }
            let analysis = options.allow_analysis.then_some(Channel::Analysis);
            let channels: Vec<Channel> = analysis.into_iter().chain([Channel::Commentary]).collect();
            language.add_calls(channel, call, &channels, options);
        }
        Ok(language)
    }

    fn add_calls(&mut self, channel: u32, call: u32, channels: &[Channel], options: &EnvelopeOptions) {
        // By whether they lead to JSON or to text: content types, and channels before them.
        let types = [false, true].map(|takes_text| self.content_type(call, takes_text));
        let channels_before = types.map(|content_type| {
            let before = self.node();
            channels.iter().for_each(|name| self.text_to(before, name.as_str(), content_type));
            before
        });
        let after_channel = self.node();
        for name in channels {
            let named = self.text(channel, name.as_str());
            self.text_to(named, " to=", after_channel);
        }
        let after_role = self.text(self.header, " to=");
        for (idx, name) in options.recipients.iter().enumerate() {
            let kind = usize::from(options.text_recipients.contains(name));
            // <|channel|>commentary to=recipient
            let named = self.recipient(after_channel, name, idx);
            self.copy_edges(types[kind], named);
            //  to=recipient<|channel|>commentary
            let named = self.recipient(after_role, name, idx);
            self.special(named, SpecialToken::Channel, channels_before[kind]);
        }
    }

    /// A node from which an optional content type and `<|message|>` lead to `call`.
    fn content_type(&mut self, call: u32, takes_text: bool) -> u32 {
        let [start, constrained, end] = [(); 3].map(|()| self.node());
        self.special(start, SpecialToken::Message, call);
        self.special(end, SpecialToken::Message, call);
        let blank = self.text(start, " ");
        self.text_to(blank, "code", end);
        if !takes_text {
            self.text_to(blank, "json", end);
            self.special(start, SpecialToken::Constrain, constrained);
            self.special(blank, SpecialToken::Constrain, constrained);
            self.text_to(constrained, "json", end);
        }
        start
    }

    fn recipient(&mut self, from: u32, name: &str, idx: usize) -> u32 {
        let node = self.text(from, name);
        self.nodes[node as usize].recipient = idx as u32;
        node
    }

    fn node(&mut self) -> u32 {
        self.nodes.push(Node { first_edge: NONE, recipient: NONE });
        self.nodes.len() as u32 - 1
    }

    fn edge(&mut self, from: u32, symbol: Symbol, to: u32) {
        if self.step(from, symbol).is_none() {
            let first = &mut self.nodes[from as usize].first_edge;
            self.edges.push(Edge { symbol, to, next_edge: *first });
            *first = self.edges.len() as u32 - 1;
        }
    }

    fn special(&mut self, from: u32, token: SpecialToken, to: u32) {
        self.edge(from, Symbol::Special(token), to);
    }

    /// The node that `text` leads to, made where there is none.
    fn text(&mut self, from: u32, text: &str) -> u32 {
        text.bytes().fold(from, |from, byte| {
            self.step(from, Symbol::Byte(byte)).unwrap_or_else(|| {
                let to = self.node();
                self.edge(from, Symbol::Byte(byte), to);
                to
            })
        })
    }

    /// Makes `text` lead to `to`.
    fn text_to(&mut self, from: u32, text: &str, to: u32) {
        let (front, last) = text.split_at(text.len() - 1);
        let from = self.text(from, front);
        self.edge(from, Symbol::Byte(last.as_bytes()[0]), to);
    }

    fn copy_edges(&mut self, from: u32, to: u32) {
        let edges: Vec<(Symbol, u32)> = self.edges(from).collect();
        for (symbol, target) in edges {
            self.edge(to, symbol, target);
        }
    }

    /// What may follow `node`, and where it leads.
    pub(super) fn edges(&self, node: u32) -> impl Iterator<Item = (Symbol, u32)> + '_ {
        let mut next = self.nodes[node as usize].first_edge;
        std::iter::from_fn(move || {
            let edge = self.edges.get(next as usize)?;
            next = edge.next_edge;
            Some((edge.symbol, edge.to))
        })
    }

    /// Where `symbol` leads from `node`.
    pub(super) fn step(&self, node: u32, symbol: Symbol) -> Option<u32> {
        self.edges(node).find(|(of_edge, _)| *of_edge == symbol).map(|(_, to)| to)
    }

    /// The content that begins at `node`.
    pub(super) fn body(&self, node: u32) -> Option<Body> {
        Body::ALL.get(node as usize).copied()
    }

    /// The recipient whose name ends at `node`.
    pub(super) fn recipient_at(&self, node: u32) -> Option<usize> {
        let idx = self.nodes[node as usize].recipient;
        (idx != NONE).then_some(idx as usize)
    }
}

fn check_recipient(recipient: &str) -> Result<(), HarmonyError> {
    let is_legal = |c: char| !c.is_whitespace() && !c.is_control();
    let fits = (1..=MAX_RECIPIENT_LEN).contains(&recipient.len());
    if fits && recipient.chars().all(is_legal) && !recipient.contains("<|") {
        return Ok(());
    }
    Err(HarmonyError::InvalidRecipient { recipient: recipient.to_owned(), max: MAX_RECIPIENT_LEN })
}
