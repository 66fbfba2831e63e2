//! Turn events into chat completion chunks.

use crate::clock;
use crate::error::ApiError;
use crate::ids::new_id;
use crate::prepare::chat::ChatPlan;
use crate::sse;
use crate::turn::{EndReason, PartKind, TurnEnd, TurnEvent, Usage};
use crate::wire::chat::{
    ChatChunk, ChunkChoice, CustomDelta, Delta, FinishReason, FunctionDelta, ToolCallDelta,
};
use crate::wire::logprobs::{ChoiceLogprobs, TokenLogprob};
use crate::wire::usage::{CompletionTokensDetails, CompletionUsage, PromptTokensDetails};

/// Between two messages of the model that share one field of the answer.
const SEPARATOR: &str = "\n\n";

/// Builds the chunks of one request.
#[derive(Debug)]
pub(crate) struct ChunkBuilder {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    include_reasoning: bool,
    include_obfuscation: bool,
    choices: Vec<ChoiceState>,
    usage: Usage,
}

/// What one answer has said so far.
#[derive(Debug, Clone, Default)]
struct ChoiceState {
    part: Option<PartKind>,
    has_reasoning: bool,
    has_content: bool,
    /// Text is due that sets this part off from the one before.
    separate: bool,
    num_calls: usize,
    /// Calls go out in the deprecated shape, which has room for one.
    legacy_calls: bool,
}

impl ChunkBuilder {
    /// A builder with an id of its own.
    pub(crate) fn new(plan: &ChatPlan) -> Self {
        Self {
            id: new_id("chatcmpl-"),
            created: clock::unix_now(),
            model: plan.model.clone(),
            include_usage: plan.include_usage,
            include_reasoning: plan.include_reasoning,
            include_obfuscation: plan.include_obfuscation,
            choices: vec![ChoiceState { legacy_calls: plan.legacy_calls, ..ChoiceState::default() }; plan.n],
            usage: Usage::default(),
        }
    }

    #[cfg(test)]
    pub(crate) fn for_test(legacy_calls: bool) -> Self {
        Self {
            id: "chatcmpl-0".to_owned(),
            created: 0,
            model: "m".to_owned(),
            include_usage: false,
            include_reasoning: true,
            include_obfuscation: false,
            choices: vec![ChoiceState { legacy_calls, ..ChoiceState::default() }],
            usage: Usage::default(),
        }
    }

    /// Whether the stream ends with a chunk of usage.
    pub(crate) fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// The chunk for the next event of answer `index`, if it has one.
    ///
    /// # Errors
    /// 500 if the engine failed.
    pub(crate) fn push(&mut self, index: usize, event: TurnEvent) -> Result<Option<ChatChunk>, ApiError> {
        let num_bytes = if let TurnEvent::Delta { text, .. } = &event { text.len() } else { 0 };
        let choice = match event {
            TurnEvent::Started => Some(change(index, role_delta(), Vec::new())),
            TurnEvent::PartStart(kind) => {
                self.choices[index].start_part(kind).map(|delta| change(index, delta, Vec::new()))
            }
            TurnEvent::Delta { text, logprobs } => {
                self.text(index, text).map(|delta| change(index, delta, logprobs))
            }
            TurnEvent::PartEnd { .. } => None,
            TurnEvent::Finished(end) => Some(self.finished(index, end)?),
        };
        let obfuscation = self.include_obfuscation.then(|| sse::obfuscation(num_bytes));
        Ok(choice.map(|choice| ChatChunk {
            obfuscation,
            ..self.chunk(vec![choice], self.include_usage.then_some(None))
        }))
    }

    /// The last chunk: no choices, all the counts.
    pub(crate) fn usage_chunk(&self) -> ChatChunk {
        self.chunk(Vec::new(), Some(Some(wire_usage(self.usage))))
    }

    fn text(&mut self, index: usize, text: String) -> Option<Delta> {
        let delta = self.choices[index].text(text)?;
        (delta.reasoning.is_none() || self.include_reasoning).then_some(delta)
    }

    fn finished(&mut self, index: usize, end: TurnEnd) -> Result<ChunkChoice, ApiError> {
        let finish_reason = match end.reason {
            EndReason::Stop => FinishReason::Stop,
            EndReason::ToolCalls if self.choices[index].legacy_calls => FinishReason::FunctionCall,
            EndReason::ToolCalls => FinishReason::ToolCalls,
            EndReason::Length => FinishReason::Length,
            EndReason::Failed(reason) => return Err(ApiError::Internal { reason }),
        };
        if index == 0 {
            // The prompt is one, however many answers it has.
            self.usage.prompt_tokens = end.usage.prompt_tokens;
            self.usage.cached_tokens = end.usage.cached_tokens;
        }
        self.usage.completion_tokens += end.usage.completion_tokens;
        self.usage.reasoning_tokens += end.usage.reasoning_tokens;
        Ok(ChunkChoice { finish_reason: Some(finish_reason), ..change(index, Delta::default(), Vec::new()) })
    }

    fn chunk(&self, choices: Vec<ChunkChoice>, usage: Option<Option<CompletionUsage>>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices,
            service_tier: "default",
            system_fingerprint: concat!("ossia-", env!("CARGO_PKG_VERSION")).to_owned(),
            usage,
            obfuscation: None,
        }
    }
}

impl ChoiceState {
    fn start_part(&mut self, kind: PartKind) -> Option<Delta> {
        self.separate = match &kind {
            PartKind::Reasoning => std::mem::replace(&mut self.has_reasoning, true),
            PartKind::Preamble | PartKind::Answer => std::mem::replace(&mut self.has_content, true),
            PartKind::Call(_) => false,
        };
        self.num_calls += usize::from(matches!(kind, PartKind::Call(_)));
        let delta = match &kind {
            PartKind::Call(tool) => self.call(tool.custom, Some(tool.name.clone()), String::new()),
            _ => None,
        };
        self.part = Some(kind);
        delta
    }

    fn text(&mut self, text: String) -> Option<Delta> {
        let separated = std::mem::take(&mut self.separate);
        let text = if separated { format!("{SEPARATOR}{text}") } else { text };
        Some(match self.part.as_ref()? {
            PartKind::Reasoning => {
                Delta { reasoning: Some(text.clone()), reasoning_content: Some(text), ..Delta::default() }
            }
            PartKind::Preamble | PartKind::Answer => Delta { content: Some(text), ..Delta::default() },
            PartKind::Call(tool) => return self.call(tool.custom, None, text),
        })
    }

    /// A piece of the call under way: its name, or more of its arguments.
    fn call(&self, custom: bool, name: Option<String>, arguments: String) -> Option<Delta> {
        match self.legacy_calls {
            false => Some(call_delta(self.num_calls - 1, custom, name, arguments)),
            true if self.num_calls == 1 => {
                Some(Delta { function_call: Some(FunctionDelta { name, arguments }), ..Delta::default() })
            }
            true => None,
        }
    }
}

fn role_delta() -> Delta {
    Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() }
}

/// The first piece of a call has its name, and an id of its own; the later ones have arguments or input only.
fn call_delta(index: usize, custom: bool, name: Option<String>, text: String) -> Delta {
    let kind = if custom { "custom" } else { "function" };
    let (id, kind) = match name {
        Some(_) => (Some(new_id("call_")), Some(kind)),
        None => (None, None),
    };
    let call = if custom {
        ToolCallDelta { index, id, kind, function: None, custom: Some(CustomDelta { name, input: text }) }
    } else {
        ToolCallDelta {
            index,
            id,
            kind,
            function: Some(FunctionDelta { name, arguments: text }),
            custom: None,
        }
    };
    Delta { tool_calls: Some(vec![call]), ..Delta::default() }
}

fn change(index: usize, delta: Delta, logprobs: Vec<TokenLogprob>) -> ChunkChoice {
    let logprobs =
        (!logprobs.is_empty()).then_some(ChoiceLogprobs { content: Some(logprobs), refusal: None });
    ChunkChoice { index, delta, logprobs, finish_reason: None }
}

/// Counts in the words of chat completions.
pub(crate) fn wire_usage(usage: Usage) -> CompletionUsage {
    CompletionUsage {
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        total_tokens: usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details: PromptTokensDetails { cached_tokens: usage.cached_tokens, audio_tokens: 0 },
        completion_tokens_details: CompletionTokensDetails {
            reasoning_tokens: usage.reasoning_tokens,
            audio_tokens: 0,
            accepted_prediction_tokens: 0,
            rejected_prediction_tokens: 0,
        },
    }
}
