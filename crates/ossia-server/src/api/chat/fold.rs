//! Chunks into a whole chat completion, as a client would put them together.

use serde_json::{Map, Value};

use crate::wire::chat::{
    AssistantMessage, ChatChoice, ChatChunk, ChatCompletion, ChunkChoice, FinishReason, FunctionCall,
    FunctionDelta, ToolCall, ToolCallDelta,
};
use crate::wire::logprobs::TokenLogprob;

/// The answers so far.
#[derive(Debug)]
pub(crate) struct CompletionFold {
    choices: Vec<ChoiceFold>,
}

#[derive(Debug, Clone, Default)]
struct ChoiceFold {
    content: String,
    reasoning: Option<String>,
    tool_calls: Vec<ToolCall>,
    function_call: Option<FunctionCall>,
    logprobs: Option<Vec<TokenLogprob>>,
    finish_reason: Option<FinishReason>,
}

impl CompletionFold {
    /// A fold of `n` answers.
    pub(crate) fn new(n: usize) -> Self {
        Self { choices: vec![ChoiceFold::default(); n] }
    }

    /// Adds a chunk.
    pub(crate) fn push(&mut self, chunk: &ChatChunk) {
        for choice in &chunk.choices {
            self.choices[choice.index].push(choice);
        }
    }

    /// The completion; `last` is the chunk of usage, whose id and model are those of all chunks.
    pub(crate) fn finish(self, last: &ChatChunk, metadata: Option<Map<String, Value>>) -> ChatCompletion {
        let usage = last.usage.clone().flatten();
        let choices = self.choices.into_iter().enumerate().map(|(index, choice)| choice.finish(index));
        ChatCompletion {
            id: last.id.clone(),
            object: "chat.completion",
            created: last.created,
            model: last.model.clone(),
            choices: choices.collect(),
            usage,
            service_tier: last.service_tier,
            system_fingerprint: last.system_fingerprint.clone(),
            metadata,
        }
    }
}

impl ChoiceFold {
    fn push(&mut self, choice: &ChunkChoice) {
        let delta = &choice.delta;
        self.content.push_str(delta.content.as_deref().unwrap_or_default());
        if let Some(text) = &delta.reasoning {
            self.reasoning.get_or_insert_default().push_str(text);
        }
        delta.tool_calls.iter().flatten().for_each(|call| self.push_call(call));
        delta.function_call.iter().for_each(|call| self.push_legacy_call(call));
        if let Some(tokens) = choice.logprobs.as_ref().and_then(|logprobs| logprobs.content.as_ref()) {
            self.logprobs.get_or_insert_default().extend_from_slice(tokens);
        }
        self.finish_reason = self.finish_reason.or(choice.finish_reason);
    }

    fn push_call(&mut self, delta: &ToolCallDelta) {
        if let (Some(id), Some(kind)) = (&delta.id, delta.kind) {
            self.tool_calls.push(ToolCall {
                id: id.clone(),
                kind: kind.to_owned(),
                function: None,
                custom: None,
            });
        }
        let Some(call) = self.tool_calls.get_mut(delta.index) else { return };
        if let Some(function) = &delta.function {
            let whole = call.function.get_or_insert_default();
            whole.name.push_str(function.name.as_deref().unwrap_or_default());
            whole.arguments.push_str(&function.arguments);
        }
        if let Some(custom) = &delta.custom {
            let whole = call.custom.get_or_insert_default();
            whole.name.push_str(custom.name.as_deref().unwrap_or_default());
            whole.input.push_str(&custom.input);
        }
    }

    fn push_legacy_call(&mut self, delta: &FunctionDelta) {
        let call = self.function_call.get_or_insert_default();
        call.name.push_str(delta.name.as_deref().unwrap_or_default());
        call.arguments.push_str(&delta.arguments);
    }

    fn finish(self, index: usize) -> ChatChoice {
        let calls = !self.tool_calls.is_empty() || self.function_call.is_some();
        let silent = self.content.is_empty() && calls;
        let message = AssistantMessage {
            role: "assistant",
            content: (!silent).then_some(self.content),
            refusal: None,
            annotations: Vec::new(),
            tool_calls: (!self.tool_calls.is_empty()).then_some(self.tool_calls),
            function_call: self.function_call,
            reasoning_content: self.reasoning.clone(),
            reasoning: self.reasoning,
        };
        let logprobs = self
            .logprobs
            .map(|content| crate::wire::logprobs::ChoiceLogprobs { content: Some(content), refusal: None });
        // Every stream of a turn ends with a reason.
        ChatChoice {
            index,
            message,
            logprobs,
            finish_reason: self.finish_reason.unwrap_or(FinishReason::Stop),
        }
    }
}
