//! Turn events into response events, in OpenAI's order.

use crate::clock;
use crate::ids::new_id;
use crate::seal::{REASONING, Sealer};
use crate::store::Tenant;
use crate::turn::{Callable, EndReason, PartKind, TurnEnd, TurnEvent, Usage};
use crate::wire::logprobs::TokenLogprob;
use crate::wire::responses::{
    IncompleteDetails, ItemStatus, OutputContent, OutputItem, Phase, Response, ResponseError, ResponseEvent,
    ResponseStatus, SequencedEvent,
};
use crate::wire::usage::{InputTokensDetails, OutputTokensDetails, ResponseUsage};

/// Index of the only content part of an item.
const CONTENT_INDEX: usize = 0;

/// Builds the events of one response.
#[derive(Debug)]
pub(crate) struct EventBuilder {
    response: Response,
    item: Option<OpenItem>,
    next_sequence_number: u64,
    seal: Option<Seal>,
}

/// How the chain of thought is sealed, where the client asked for that.
#[derive(Clone)]
pub(crate) struct Seal {
    pub(crate) sealer: Sealer,
    pub(crate) tenant: Tenant,
}

/// The output item under way.
#[derive(Debug)]
struct OpenItem {
    id: String,
    kind: ItemKind,
    text: String,
    logprobs: Vec<TokenLogprob>,
}

#[derive(Debug)]
enum ItemKind {
    Reasoning,
    Message(Phase),
    Call { call_id: String, tool: Callable },
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seal({})", self.tenant.0)
    }
}

impl EventBuilder {
    /// `response` is the response in progress, without output.
    pub(crate) fn new(response: Response) -> Self {
        Self { response, item: None, next_sequence_number: 0, seal: None }
    }

    /// Seals the chain of thought for the client, if it is to be sealed.
    pub(crate) fn sealing(self, seal: Option<Seal>) -> Self {
        Self { seal, ..self }
    }

    /// The response as it stands.
    pub(crate) fn response(&self) -> &Response {
        &self.response
    }

    /// The events before the first of the turn. A response of the background waits for its turn.
    pub(crate) fn begin(&mut self) -> Vec<SequencedEvent> {
        let response = || Box::new(self.response.clone());
        let second = match self.response.status {
            ResponseStatus::Queued => ResponseEvent::Queued { response: response() },
            _ => ResponseEvent::InProgress { response: response() },
        };
        let events = vec![ResponseEvent::Created { response: response() }, second];
        self.number(events)
    }

    /// The events that end the response on demand.
    pub(crate) fn cancel(&mut self) -> Vec<SequencedEvent> {
        let mut events = self.end_item(false);
        self.response.status = ResponseStatus::Cancelled;
        events.push(ResponseEvent::Incomplete { response: Box::new(self.response.clone()) });
        self.number(events)
    }

    /// The event that takes the place of the last one when the response could not be kept.
    pub(crate) fn fail(&mut self, message: String) -> ResponseEvent {
        let response = &mut self.response;
        response.status = ResponseStatus::Failed;
        response.completed_at = None;
        response.incomplete_details = None;
        response.error = Some(ResponseError { code: "server_error", message });
        ResponseEvent::Failed { response: Box::new(response.clone()) }
    }

    /// The events that follow from the next event of the turn.
    pub(crate) fn push(&mut self, event: TurnEvent) -> Vec<SequencedEvent> {
        let events = match event {
            TurnEvent::Started => self.start(),
            TurnEvent::PartStart(kind) => self.start_item(kind),
            TurnEvent::Delta { text, logprobs } => self.delta(text, logprobs),
            TurnEvent::PartEnd { complete } => self.end_item(complete),
            TurnEvent::Finished(end) => vec![self.finish(end)],
        };
        self.number(events)
    }

    fn number(&mut self, events: Vec<ResponseEvent>) -> Vec<SequencedEvent> {
        let first = self.next_sequence_number;
        self.next_sequence_number += events.len() as u64;
        (first..)
            .zip(events)
            .map(|(sequence_number, event)| SequencedEvent { event, sequence_number })
            .collect()
    }

    fn start(&mut self) -> Vec<ResponseEvent> {
        if self.response.status != ResponseStatus::Queued {
            return Vec::new();
        }
        self.response.status = ResponseStatus::InProgress;
        vec![ResponseEvent::InProgress { response: Box::new(self.response.clone()) }]
    }

    fn output_index(&self) -> usize {
        self.response.output.len()
    }

    fn start_item(&mut self, kind: PartKind) -> Vec<ResponseEvent> {
        let item = OpenItem::new(kind);
        let output_index = self.output_index();
        let mut events = vec![ResponseEvent::OutputItemAdded {
            output_index,
            item: item.wire(ItemStatus::InProgress, false),
        }];
        if let Some(part) = item.part() {
            let item_id = item.id.clone();
            events.push(ResponseEvent::ContentPartAdded {
                item_id,
                output_index,
                content_index: CONTENT_INDEX,
                part,
            });
        }
        self.item = Some(item);
        events
    }

    fn delta(&mut self, delta: String, logprobs: Vec<TokenLogprob>) -> Vec<ResponseEvent> {
        let output_index = self.output_index();
        let Some(item) = &mut self.item else { return Vec::new() };
        item.text.push_str(&delta);
        item.logprobs.extend_from_slice(&logprobs);
        let (item_id, content_index) = (item.id.clone(), CONTENT_INDEX);
        vec![match item.kind {
            ItemKind::Reasoning => {
                ResponseEvent::ReasoningTextDelta { item_id, output_index, content_index, delta }
            }
            ItemKind::Message(_) => {
                ResponseEvent::OutputTextDelta { item_id, output_index, content_index, delta, logprobs }
            }
            ItemKind::Call { ref tool, .. } if tool.custom => {
                ResponseEvent::CustomToolCallInputDelta { item_id, output_index, delta }
            }
            ItemKind::Call { .. } => {
                ResponseEvent::FunctionCallArgumentsDelta { item_id, output_index, delta }
            }
        }]
    }

    fn end_item(&mut self, complete: bool) -> Vec<ResponseEvent> {
        let output_index = self.output_index();
        let Some(item) = self.item.take() else { return Vec::new() };
        let mut events = vec![item.text_done(output_index)];
        if let Some(part) = item.part() {
            let item_id = item.id.clone();
            events.push(ResponseEvent::ContentPartDone {
                item_id,
                output_index,
                content_index: CONTENT_INDEX,
                part,
            });
        }
        let status = if complete { ItemStatus::Completed } else { ItemStatus::Incomplete };
        let item = self.sealed(item.wire(status, true));
        self.response.output.push(item.clone());
        events.push(ResponseEvent::OutputItemDone { output_index, item });
        events
    }

    fn sealed(&self, mut item: OutputItem) -> OutputItem {
        if let (Some(seal), OutputItem::Reasoning { content, encrypted_content, .. }) =
            (&self.seal, &mut item)
        {
            let text: String = content.iter().map(OutputContent::text).collect();
            *encrypted_content = Some(seal.sealer.seal(&seal.tenant, REASONING, &text));
        }
        item
    }

    fn finish(&mut self, end: TurnEnd) -> ResponseEvent {
        let response = &mut self.response;
        response.usage = Some(wire_usage(end.usage));
        match end.reason {
            EndReason::Stop | EndReason::ToolCalls => {
                response.status = ResponseStatus::Completed;
                response.completed_at = Some(clock::unix_now());
                ResponseEvent::Completed { response: Box::new(response.clone()) }
            }
            EndReason::Length => {
                response.status = ResponseStatus::Incomplete;
                response.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens" });
                ResponseEvent::Incomplete { response: Box::new(response.clone()) }
            }
            EndReason::Failed(message) => self.fail(message),
        }
    }
}

impl OpenItem {
    fn new(kind: PartKind) -> Self {
        let (prefix, kind) = match kind {
            PartKind::Reasoning => ("rs_", ItemKind::Reasoning),
            PartKind::Preamble => ("msg_", ItemKind::Message(Phase::Commentary)),
            PartKind::Answer => ("msg_", ItemKind::Message(Phase::FinalAnswer)),
            PartKind::Call(tool) => {
                let prefix = if tool.custom { "ctc_" } else { "fc_" };
                (prefix, ItemKind::Call { call_id: new_id("call_"), tool })
            }
        };
        Self { id: new_id(prefix), kind, text: String::new(), logprobs: Vec::new() }
    }

    /// The content part as it stands; a call has none.
    fn part(&self) -> Option<OutputContent> {
        let text = self.text.clone();
        match self.kind {
            ItemKind::Reasoning => Some(OutputContent::ReasoningText { text }),
            ItemKind::Message(_) => {
                let logprobs = self.logprobs.clone();
                Some(OutputContent::OutputText { text, annotations: Vec::new(), logprobs })
            }
            ItemKind::Call { .. } => None,
        }
    }

    /// The item; without its content when it is announced.
    fn wire(&self, status: ItemStatus, with_content: bool) -> OutputItem {
        let id = self.id.clone();
        let content = if with_content { self.part().into_iter().collect() } else { Vec::new() };
        match &self.kind {
            ItemKind::Reasoning => {
                OutputItem::Reasoning { id, summary: Vec::new(), content, encrypted_content: None, status }
            }
            ItemKind::Message(phase) => {
                OutputItem::Message { id, role: "assistant", content, phase: *phase, status }
            }
            ItemKind::Call { call_id, tool } => self.wire_call(call_id.clone(), tool.clone(), status),
        }
    }

    fn wire_call(&self, call_id: String, tool: Callable, status: ItemStatus) -> OutputItem {
        let Callable { namespace, name, custom, .. } = tool;
        let (id, text) = (self.id.clone(), self.text.clone());
        if custom {
            OutputItem::CustomToolCall { id, call_id, namespace, name, input: text, status }
        } else {
            OutputItem::FunctionCall { id, call_id, namespace, name, arguments: text, status }
        }
    }

    fn text_done(&self, output_index: usize) -> ResponseEvent {
        let (item_id, text, content_index) = (self.id.clone(), self.text.clone(), CONTENT_INDEX);
        match &self.kind {
            ItemKind::Reasoning => {
                ResponseEvent::ReasoningTextDone { item_id, output_index, content_index, text }
            }
            ItemKind::Message(_) => {
                let logprobs = self.logprobs.clone();
                ResponseEvent::OutputTextDone { item_id, output_index, content_index, text, logprobs }
            }
            ItemKind::Call { tool, .. } if tool.custom => {
                ResponseEvent::CustomToolCallInputDone { item_id, output_index, input: text }
            }
            ItemKind::Call { tool, .. } => ResponseEvent::FunctionCallArgumentsDone {
                item_id,
                output_index,
                name: tool.name.clone(),
                arguments: text,
            },
        }
    }
}

/// Token counts as the API names them.
pub(super) fn wire_usage(usage: Usage) -> ResponseUsage {
    ResponseUsage {
        input_tokens: usage.prompt_tokens,
        input_tokens_details: InputTokensDetails {
            cached_tokens: usage.cached_tokens,
            cache_write_tokens: usage.prompt_tokens - usage.cached_tokens,
        },
        output_tokens: usage.completion_tokens,
        output_tokens_details: OutputTokensDetails { reasoning_tokens: usage.reasoning_tokens },
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
    }
}
