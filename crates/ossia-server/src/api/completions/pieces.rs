//! Turn events into pieces of a text completion, and pieces into a whole one.

use std::collections::BTreeMap;

use ossia_harmony::Tokenizer;

use crate::api::chat::wire_usage;
use crate::clock;
use crate::error::ApiError;
use crate::ids::new_id;
use crate::prepare::completions::CompletionPlan;
use crate::sse;
use crate::turn::{EndReason, TurnEnd, TurnEvent, Usage};
use crate::wire::completion::{Completion, CompletionChoice, CompletionLogprobs};
use crate::wire::logprobs::TokenLogprob;

/// Builds the pieces of one request.
#[derive(Debug)]
pub(crate) struct PieceBuilder {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    include_obfuscation: bool,
    /// Answers to each prompt.
    n: usize,
    /// Texts of the prompts, if they are to be repeated.
    echoes: Vec<String>,
    /// Characters that each answer has so far, by the tokens that were reported.
    offsets: Vec<usize>,
    usage: Usage,
}

impl PieceBuilder {
    /// A builder with an id of its own.
    pub(crate) fn new(plan: &CompletionPlan, tokenizer: &Tokenizer) -> Self {
        let echoed = if plan.echo { plan.prompts.as_slice() } else { &[] };
        Self {
            id: new_id("cmpl-"),
            created: clock::unix_now(),
            model: plan.model.clone(),
            include_usage: plan.include_usage,
            include_obfuscation: plan.include_obfuscation,
            n: plan.n,
            echoes: echoed.iter().map(|ids| tokenizer.decode(ids)).collect(),
            offsets: vec![0; plan.prompts.len() * plan.n],
            usage: Usage::default(),
        }
    }

    /// Whether the stream ends with a piece of usage.
    pub(crate) fn include_usage(&self) -> bool {
        self.include_usage
    }

    /// The piece for the next event of answer `index`, if it has one.
    ///
    /// # Errors
    /// 500 if the engine failed.
    pub(crate) fn push(&mut self, index: usize, event: TurnEvent) -> Result<Option<Completion>, ApiError> {
        let choice = CompletionChoice { index, ..CompletionChoice::default() };
        let choice = match event {
            TurnEvent::Started => match self.echoes.get(index / self.n) {
                Some(text) => CompletionChoice { text: text.clone(), ..choice },
                None => return Ok(None),
            },
            TurnEvent::Delta { text, logprobs } => {
                let logprobs = (!logprobs.is_empty()).then(|| self.logprobs(index, logprobs));
                CompletionChoice { text, logprobs, ..choice }
            }
            TurnEvent::PartStart(_) | TurnEvent::PartEnd { .. } => return Ok(None),
            TurnEvent::Finished(end) => {
                CompletionChoice { finish_reason: Some(self.finished(index, end)?), ..choice }
            }
        };
        let obfuscation = self.include_obfuscation.then(|| sse::obfuscation(choice.text.len()));
        let usage = self.include_usage.then_some(None);
        Ok(Some(Completion { obfuscation, usage, ..self.piece(vec![choice]) }))
    }

    /// The last piece: no choices, all the counts.
    pub(crate) fn usage_piece(&self) -> Completion {
        Completion { usage: Some(Some(wire_usage(self.usage))), ..self.piece(Vec::new()) }
    }

    fn finished(&mut self, index: usize, end: TurnEnd) -> Result<&'static str, ApiError> {
        let reason = match end.reason {
            EndReason::Stop | EndReason::ToolCalls => "stop",
            EndReason::Length => "length",
            EndReason::Failed(reason) => return Err(ApiError::Internal { reason }),
        };
        if index.is_multiple_of(self.n) {
            // A prompt is one, however many answers it has.
            self.usage.prompt_tokens += end.usage.prompt_tokens;
            self.usage.cached_tokens += end.usage.cached_tokens;
        }
        self.usage.completion_tokens += end.usage.completion_tokens;
        Ok(reason)
    }

    fn logprobs(&mut self, index: usize, tokens: Vec<TokenLogprob>) -> CompletionLogprobs {
        let mut lists = CompletionLogprobs::default();
        for token in tokens {
            lists.text_offset.push(self.offsets[index]);
            // Each character has one byte that does not continue another.
            self.offsets[index] += token.bytes.iter().filter(|&&byte| byte & 0xC0 != 0x80).count();
            let name = token_name(&token.bytes);
            let mut top: BTreeMap<String, f32> =
                token.top_logprobs.iter().map(|top| (token_name(&top.bytes), top.logprob)).collect();
            top.insert(name.clone(), token.logprob);
            lists.tokens.push(name);
            lists.token_logprobs.push(token.logprob);
            lists.top_logprobs.push(top);
        }
        lists
    }

    fn piece(&self, choices: Vec<CompletionChoice>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            system_fingerprint: concat!("ossia-", env!("CARGO_PKG_VERSION")).to_owned(),
            usage: None,
            obfuscation: None,
        }
    }
}

/// A token's text; bytes that are no text are spelled out, as OpenAI does.
fn token_name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |name, byte| format!("{name}\\x{byte:02x}")),
    }
}

/// The answers so far.
#[derive(Debug, Default)]
pub(crate) struct CompletionFold {
    choices: BTreeMap<usize, CompletionChoice>,
}

impl CompletionFold {
    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: Completion) {
        for more in piece.choices {
            let choice = self.choices.entry(more.index).or_default();
            choice.index = more.index;
            choice.text.push_str(&more.text);
            choice.finish_reason = choice.finish_reason.or(more.finish_reason);
            if let Some(more) = more.logprobs {
                let lists = choice.logprobs.get_or_insert_default();
                lists.tokens.extend(more.tokens);
                lists.token_logprobs.extend(more.token_logprobs);
                lists.top_logprobs.extend(more.top_logprobs);
                lists.text_offset.extend(more.text_offset);
            }
        }
    }

    /// The completion; `last` is the piece of usage, whose id and model are those of all pieces.
    pub(crate) fn finish(self, last: Completion) -> Completion {
        Completion { choices: self.choices.into_values().collect(), ..last }
    }
}
