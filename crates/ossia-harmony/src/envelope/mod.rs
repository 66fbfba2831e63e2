//! Which tokens may follow, so that only well-formed messages can be sampled.

mod language;
mod next_tokens;

use crate::{HarmonyError, SpecialToken, Tokenizer};
use language::{Body, Language, Symbol};

/// What the messages of a turn may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeOptions {
    /// The tools that may be called: `functions.get_weather`, `browser.search`, `python`. Without any, there is no
    /// commentary.
    pub recipients: Vec<String>,
    /// Those of them whose calls hold plain text: their headers cannot announce JSON.
    pub text_recipients: Vec<String>,
    /// Whether the model may think before it answers.
    pub allow_analysis: bool,
    /// Whether the model may say something to the user before a call.
    pub allow_preamble: bool,
    /// Whether the turn may end in an answer. If not, there must be a call.
    pub allow_final: bool,
    /// Whether a turn may hold several calls: all but the last end in `<|end|>`.
    pub parallel_calls: bool,
    /// Length of the model's logits, if its vocabulary is padded beyond the tokenizer's.
    pub padded_vocab_size: Option<usize>,
}

impl Default for EnvelopeOptions {
    fn default() -> Self {
        Self {
            recipients: Vec::new(),
            text_recipients: Vec::new(),
            allow_analysis: true,
            allow_preamble: true,
            allow_final: true,
            parallel_calls: false,
            padded_vocab_size: None,
        }
    }
}

/// The tokens that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// Every token.
    All,
    /// Every token but these, in ascending order.
    Except(&'a [u32]),
    /// These only, in ascending order; never empty.
    Only(&'a [u32]),
    /// Token `t` if bit `t % 32` of word `t / 32` is set, none past the last word.
    Bitmask(&'a [u32]),
}

/// Where in a turn the next token will stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope<'a> {
    /// Before `<|message|>`.
    Header,
    /// In the text of the chain of thought.
    Analysis,
    /// In text for the user before a call.
    Preamble,
    /// In the text of the answer.
    Final,
    /// In the text of a call to this recipient.
    Call(&'a str),
    /// After the end of the turn.
    Done,
    /// A token came that was not allowed.
    Unknown,
}

/// The language of headers and message ends over token ids, for one turn.
///
/// In headers, only the tokens that make a legal header are allowed, cut in any way into tokens of the vocabulary. In
/// content, every token is, but for special tokens other than the one that ends such content.
#[derive(Clone, Debug)]
pub struct EnvelopeGrammar {
    tokenizer: Tokenizer,
    language: Language,
    options: EnvelopeOptions,
    /// Per `Body`: the tokens that end it, and the special tokens (and padding) that do not.
    ends: [Vec<u32>; 4],
    forbidden: [Vec<u32>; 4],
    state: State,
    /// The recipient of the message under way.
    recipient: Option<usize>,
    /// In a header: the tokens that may come next. After the end: the token that ended the turn.
    next: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At a node of the language that is no body.
    Header(u32),
    Content(Body),
    Done,
    Lost,
}

impl EnvelopeGrammar {
    /// The grammar at the point where the prompt ends, after `<|start|>assistant`.
    ///
    /// # Errors
    /// If a recipient cannot stand in a header, or no turn could end.
    pub fn new(tokenizer: &Tokenizer, options: &EnvelopeOptions) -> Result<Self, HarmonyError> {
        let language = Language::new(options)?;
        let padding = tokenizer.vocab_size()..options.padded_vocab_size.unwrap_or(0);
        let ends = Body::ALL.map(|body| {
            let ends = body.ends(options.parallel_calls).iter();
            let mut ends: Vec<u32> = ends.map(|&end| tokenizer.special(end)).collect();
            ends.sort_unstable();
            ends
        });
        let forbidden = ends.each_ref().map(|ends| {
            let control = tokenizer.control_token_ids().iter().copied().filter(|id| !ends.contains(id));
            control.chain(padding.clone().map(|id| id as u32)).collect()
        });
        let mut grammar = Self {
            tokenizer: tokenizer.clone(),
            state: State::Header(language.header),
            language,
            options: options.clone(),
            ends,
            forbidden,
            recipient: None,
            next: Vec::new(),
        };
        grammar.enter(grammar.language.header);
        Ok(grammar)
    }

    /// The tokens that may come next. Does not allocate.
    pub fn allowed(&self) -> Allowed<'_> {
        match self.state {
            State::Header(_) | State::Done if !self.next.is_empty() => Allowed::Only(&self.next),
            State::Content(Body::Thought) if !self.options.allow_analysis => Allowed::Only(&self.next),
            State::Content(body) => Allowed::Except(&self.forbidden[body as usize]),
            _ => Allowed::All,
        }
    }

    /// Takes the token that came. One that was not allowed makes the grammar allow everything until the next
    /// message.
    pub fn accept(&mut self, token: u32) {
        let special = self.tokenizer.is_special(token);
        match (self.state, special) {
            (State::Header(node), _) => self.accept_in_header(node, token, special),
            (State::Content(body), _) if self.ends[body as usize].contains(&token) => {
                self.end_content(body, token)
            }
            (State::Content(_) | State::Done, _) => {}
            (State::Lost, Some(SpecialToken::Start)) => {
                self.accept_in_header(self.language.next_message, token, special)
            }
            (State::Lost, Some(SpecialToken::Message)) => self.state = State::Content(Body::Answer),
            (State::Lost, _) => {}
        }
    }

    /// Where in the turn the next token will stand.
    pub fn scope(&self) -> Scope<'_> {
        match self.state {
            State::Header(_) => Scope::Header,
            State::Content(Body::Thought) => Scope::Analysis,
            State::Content(Body::Preamble) => Scope::Preamble,
            State::Content(Body::Answer) => Scope::Final,
            State::Content(Body::Call) => {
                Scope::Call(self.recipient.map_or("", |idx| &self.options.recipients[idx]))
            }
            State::Done => Scope::Done,
            State::Lost => Scope::Unknown,
        }
    }

    /// The tokens that may end the content under way, in ascending order.
    pub(crate) fn ends(&self) -> &[u32] {
        match self.state {
            State::Content(body) => &self.ends[body as usize],
            _ => &[],
        }
    }

    /// From now on there is no chain of thought: what is under way can only end, and none can begin.
    pub(crate) fn close_analysis(&mut self) {
        self.change(EnvelopeOptions { allow_analysis: false, ..self.options.clone() });
        self.next.clone_from(&self.ends[Body::Thought as usize]);
    }

    /// Goes on with other options. All languages number bodies and beginnings alike, so that the state stays.
    fn change(&mut self, options: EnvelopeOptions) {
        // Only recipients can make it fail, and those stay.
        if let Ok(language) = Language::new(&options) {
            self.language = language;
            self.options = options;
        }
    }

    fn accept_in_header(&mut self, node: u32, token: u32, special: Option<SpecialToken>) {
        let end = match special {
            Some(special) => self.language.step(node, Symbol::Special(special)),
            None => self.follow(node, token),
        };
        match end {
            Some(node) => self.enter(node),
            None => self.state = State::Lost,
        }
    }

    /// Where the bytes of an ordinary token lead; notes the recipient that they complete.
    fn follow(&mut self, node: u32, token: u32) -> Option<u32> {
        let bytes = self.tokenizer.token_bytes(token);
        let (mut node, mut recipient) = (node, self.recipient);
        for &byte in bytes {
            node = self.language.step(node, Symbol::Byte(byte))?;
            recipient = self.language.recipient_at(node).or(recipient);
        }
        self.recipient = recipient;
        (!bytes.is_empty()).then_some(node)
    }

    fn enter(&mut self, node: u32) {
        self.state = match self.language.body(node) {
            Some(body) => State::Content(body),
            None => {
                next_tokens::collect(&self.tokenizer, &self.language, node, &mut self.next);
                State::Header(node)
            }
        };
    }

    fn end_content(&mut self, body: Body, token: u32) {
        if self.tokenizer.is_special(token) != Some(SpecialToken::End) {
            self.state = State::Done;
            self.next.clear();
            self.next.push(token);
            return;
        }
        if body == Body::Call && !self.options.allow_final {
            // With a call made, nothing more is required.
            self.change(EnvelopeOptions { allow_final: true, ..self.options.clone() });
        }
        self.recipient = None;
        self.enter(self.language.next_message);
    }
}
