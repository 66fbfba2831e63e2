//! Engine events into turn events: the harmony parser, stop strings and token counts. Total: whatever tokens
//! come, the events are well nested and end with `Finished`.

use ossia_engine::{FinishReason, GeneratedToken, GenerationEvent, TokenLogprobs};
use ossia_harmony::{Channel, Header, MessageEnd, ParserEvent, StreamableParser, Tokenizer};

use super::reader::Reader;
use super::stop::{Passed, StopGate};
use super::{Callable, EndReason, PartKind, TurnEnd, TurnEvent, Usage};
use crate::wire::logprobs::{TokenLogprob, TopLogprob};

/// Follows one generation.
#[derive(Debug)]
pub(crate) struct TurnBuilder {
    tokenizer: Tokenizer,
    reader: Reader,
    stops: Vec<String>,
    stop_token_ids: Vec<u32>,
    tools: Vec<Callable>,
    part: Option<OpenPart>,
    num_calls: usize,
    usage: Usage,
    ended: bool,
}

/// The part under way.
#[derive(Debug)]
struct OpenPart {
    kind: PartKind,
    /// Whether `PartStart` went out: a chain of thought without text never starts.
    started: bool,
    gate: StopGate,
}

impl TurnBuilder {
    /// A builder at the beginning of a turn. `stop_token_ids` are the request's own; their text is not emitted.
    pub(crate) fn new(tokenizer: Tokenizer, stops: Vec<String>, stop_token_ids: Vec<u32>) -> Self {
        let reader = Reader::Harmony(StreamableParser::new(tokenizer.clone()));
        Self::with_reader(reader, tokenizer, stops, stop_token_ids)
    }

    /// A builder that reads tokens in its own way.
    pub(crate) fn with_reader(
        reader: Reader,
        tokenizer: Tokenizer,
        stops: Vec<String>,
        stop_token_ids: Vec<u32>,
    ) -> Self {
        Self {
            tokenizer,
            reader,
            stops,
            stop_token_ids,
            tools: Vec::new(),
            part: None,
            num_calls: 0,
            usage: Usage::default(),
            ended: false,
        }
    }

    /// The tools whose calls go by the client's names.
    pub(crate) fn with_tools(self, tools: Vec<Callable>) -> Self {
        Self { tools, ..self }
    }

    /// Whether `Finished` went out; what comes later is ignored.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Takes the next event of the engine and appends what follows from it.
    pub(crate) fn push(&mut self, event: GenerationEvent, out: &mut Vec<TurnEvent>) {
        if self.ended {
            return;
        }
        match event {
            GenerationEvent::Started { num_prompt_tokens, num_cached_tokens } => {
                self.usage.prompt_tokens = num_prompt_tokens;
                self.usage.cached_tokens = num_cached_tokens;
                out.push(TurnEvent::Started);
                let events = self.reader.start();
                events.into_iter().for_each(|event| self.push_parsed(event, true, out));
            }
            GenerationEvent::Token(token) => self.push_token(token, out),
            GenerationEvent::Finished(reason) => self.finish(reason, out),
        }
    }

    fn push_token(&mut self, token: GeneratedToken, out: &mut Vec<TurnEvent>) {
        self.usage.completion_tokens += 1;
        if self.stop_token_ids.contains(&token.id) {
            return;
        }
        if let (Some(logprobs), Some(part)) = (&token.logprobs, &mut self.part) {
            let is_text = matches!(part.kind, PartKind::Answer | PartKind::Preamble);
            if is_text && self.reader.is_text(&self.tokenizer, token.id) {
                part.gate.push_token(wire_logprob(&self.tokenizer, token.id, logprobs));
            }
        }
        for event in self.reader.push(token.id) {
            if !self.ended {
                self.push_parsed(event, true, out);
            }
        }
    }

    /// `cut_is_complete`: whether a part that the end of the stream cuts counts as whole.
    fn push_parsed(&mut self, event: ParserEvent, cut_is_complete: bool, out: &mut Vec<TurnEvent>) {
        match event {
            ParserEvent::MessageStart(header) => self.start_part(&header, out),
            ParserEvent::Delta(text) => self.push_text(&text, out),
            ParserEvent::MessageEnd(end) => self.end_part(end, cut_is_complete, out),
        }
    }

    fn start_part(&mut self, header: &Header, out: &mut Vec<TurnEvent>) {
        let kind = part_kind(header, &self.tools);
        if self.num_calls > 0 && !matches!(kind, PartKind::Call(_)) {
            // After its calls the model has nothing to say before it knows the results.
            return self.end(EndReason::ToolCalls, out);
        }
        let stops = if kind == PartKind::Answer { self.stops.clone() } else { Vec::new() };
        let started = kind != PartKind::Reasoning;
        if started {
            out.push(TurnEvent::PartStart(kind.clone()));
        }
        self.num_calls += usize::from(matches!(kind, PartKind::Call(_)));
        self.part = Some(OpenPart { kind, started, gate: StopGate::new(stops) });
    }

    fn push_text(&mut self, text: &str, out: &mut Vec<TurnEvent>) {
        let Some(part) = &mut self.part else { return };
        let passed = part.gate.push(text);
        let stopped = passed.stopped;
        part.emit(passed, out);
        if stopped {
            out.push(TurnEvent::PartEnd { complete: true });
            self.part = None;
            self.end(EndReason::Stop, out);
        }
    }

    fn end_part(&mut self, end: MessageEnd, cut_is_complete: bool, out: &mut Vec<TurnEvent>) {
        let Some(mut part) = self.part.take() else { return };
        let rest = part.gate.finish();
        part.emit(rest, out);
        if part.kind == PartKind::Reasoning {
            self.usage.reasoning_tokens += end.num_content_tokens;
        }
        if part.started {
            let complete = end.reason != ossia_harmony::EndReason::Truncated || cut_is_complete;
            out.push(TurnEvent::PartEnd { complete });
        }
    }

    fn finish(&mut self, reason: FinishReason, out: &mut Vec<TurnEvent>) {
        let cut_is_complete = reason == FinishReason::Stop;
        for event in self.reader.finish() {
            if !self.ended {
                self.push_parsed(event, cut_is_complete, out);
            }
        }
        if self.ended {
            return;
        }
        let reason = match reason {
            FinishReason::Stop if self.num_calls > 0 => EndReason::ToolCalls,
            FinishReason::Stop => EndReason::Stop,
            FinishReason::Length => EndReason::Length,
            FinishReason::Failed(message) => EndReason::Failed(message),
        };
        self.end(reason, out);
    }

    fn end(&mut self, reason: EndReason, out: &mut Vec<TurnEvent>) {
        self.ended = true;
        out.push(TurnEvent::Finished(TurnEnd { reason, usage: self.usage }));
    }
}

impl OpenPart {
    fn emit(&mut self, passed: Passed, out: &mut Vec<TurnEvent>) {
        if passed.text.is_empty() && passed.logprobs.is_empty() {
            return;
        }
        if !self.started {
            self.started = true;
            out.push(TurnEvent::PartStart(self.kind.clone()));
        }
        out.push(TurnEvent::Delta { text: passed.text, logprobs: passed.logprobs });
    }
}

/// A declared recipient, and any in `functions`, is a call on whichever channel; everything else goes by its channel.
fn part_kind(header: &Header, tools: &[Callable]) -> PartKind {
    let declared = tools.iter().find(|tool| header.recipient.as_ref() == Some(&tool.recipient));
    match (declared, header.function_name(), header.channel) {
        (Some(tool), ..) => PartKind::Call(tool.clone()),
        (None, Some(name), _) => PartKind::Call(Callable::function(name)),
        (None, None, Channel::Analysis) => PartKind::Reasoning,
        (None, None, Channel::Commentary) => PartKind::Preamble,
        (None, None, Channel::Final) => PartKind::Answer,
    }
}

fn wire_logprob(tokenizer: &Tokenizer, id: u32, logprobs: &TokenLogprobs) -> TokenLogprob {
    let top = logprobs.top.iter().map(|top| TopLogprob {
        token: tokenizer.decode(&[top.id]),
        logprob: finite(top.logprob),
        bytes: tokenizer.token_bytes(top.id).to_vec(),
    });
    TokenLogprob {
        token: tokenizer.decode(&[id]),
        logprob: finite(logprobs.logprob),
        bytes: tokenizer.token_bytes(id).to_vec(),
        top_logprobs: top.collect(),
    }
}

/// JSON has no infinity; OpenAI's lowest value is -9999.
fn finite(logprob: f32) -> f32 {
    logprob.max(-9999.0)
}
