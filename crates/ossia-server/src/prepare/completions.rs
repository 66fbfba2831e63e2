//! `CompletionRequest` into a [`CompletionPlan`].

use ossia_engine::SamplingParams;
use ossia_harmony::{SpecialToken, Tokenizer};
use serde_json::Value;

use super::chat::stop;
use super::check;
use super::sampling::{SamplingFields, sampling, shared_fields};
use crate::error::ApiError;
use crate::state::AppState;
use crate::wire::completion::CompletionRequest;

/// Tokens of an answer when the request does not say.
const DEFAULT_MAX_TOKENS: usize = 16;

/// Most prompts of a request.
const MAX_PROMPTS: usize = 128;

/// A checked completion request.
#[derive(Debug)]
pub(crate) struct CompletionPlan {
    pub(crate) prompts: Vec<Vec<u32>>,
    pub(crate) raw: RawPlan,
    pub(crate) model: String,
    /// Number of answers to each prompt.
    pub(crate) n: usize,
    pub(crate) echo: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) include_obfuscation: bool,
}

/// What a raw request asks of the engine, the prompt apart.
#[derive(Debug, Clone)]
pub(crate) struct RawPlan {
    pub(crate) sampling: SamplingParams,
    /// Most tokens to generate; 0 generates nothing.
    pub(crate) max_tokens: usize,
    /// Texts that end the answer.
    pub(crate) stop: Vec<String>,
    /// Token ids that end the answer besides harmony's own.
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) skip_special_tokens: bool,
    pub(crate) priority: i32,
    pub(crate) cache_salt: Option<String>,
}

/// Checks a request.
///
/// # Errors
/// 400 naming the field at fault, 404 for a model that is not served.
pub(crate) fn prepare(request: CompletionRequest, state: &AppState) -> Result<CompletionPlan, ApiError> {
    let model = state.resolve_model(request.model.as_deref())?;
    refuse_unsupported(&request)?;
    let stream = request.stream.unwrap_or(false);
    check::stream_options(request.stream_options.is_some(), stream)?;
    let n = check::integer("n", request.n, 1, 128)?.unwrap_or(1) as usize;
    best_of(request.best_of, n)?;
    let options = request.stream_options.clone().unwrap_or_default();
    Ok(CompletionPlan {
        prompts: prompts(request.prompt.as_ref(), state.tokenizer(), state.vocab_size())?,
        raw: raw_plan(&request, state.vocab_size())?,
        model,
        n,
        echo: request.echo.unwrap_or(false),
        stream,
        include_usage: options.include_usage.unwrap_or(false),
        include_obfuscation: options.include_obfuscation.unwrap_or(false),
    })
}

fn raw_plan(request: &CompletionRequest, vocab_size: usize) -> Result<RawPlan, ApiError> {
    let max_tokens = check::integer("max_tokens", request.max_tokens, 0, i64::MAX)?;
    let max_tokens = max_tokens.map_or(DEFAULT_MAX_TOKENS, |number| number as usize);
    let mut sampling = sampling(&sampling_fields(request)?, vocab_size)?;
    if request.ignore_eos == Some(true) {
        sampling.min_tokens = max_tokens;
    }
    Ok(RawPlan {
        sampling,
        max_tokens,
        stop: stop(request.stop.as_ref())?,
        stop_token_ids: request.stop_token_ids.clone().unwrap_or_default(),
        skip_special_tokens: request.skip_special_tokens.unwrap_or(true),
        priority: request.priority.unwrap_or(0),
        cache_salt: request.cache_salt.clone(),
    })
}

fn sampling_fields(request: &CompletionRequest) -> Result<SamplingFields<'_>, ApiError> {
    let logprobs = check::integer("logprobs", request.logprobs, 0, 5)?;
    Ok(SamplingFields {
        logit_bias: request.logit_bias.as_ref(),
        min_tokens: request.min_tokens,
        top_logprobs: logprobs.map(|number| number as u8),
        ..shared_fields!(request)
    })
}

fn refuse_unsupported(request: &CompletionRequest) -> Result<(), ApiError> {
    let suffix = request.suffix.as_ref().filter(|suffix| !suffix.is_empty());
    check::absent("suffix", suffix, "The model cannot fill text in.")?;
    if request.echo == Some(true) && request.logprobs.is_some() {
        let reason = "The log probabilities of a prompt are not computed: leave 'echo' or 'logprobs' out.";
        return Err(ApiError::unsupported("logprobs", reason));
    }
    Ok(())
}

/// Each answer is returned, so there is nothing to choose the best of.
fn best_of(value: Option<i64>, n: usize) -> Result<(), ApiError> {
    match check::integer("best_of", value, 0, 20)? {
        Some(best_of) if best_of != n as i64 => {
            Err(ApiError::unsupported("best_of", "Answers are not ranked: it has to equal 'n'."))
        }
        _ => Ok(()),
    }
}

/// The prompts in token ids. In a string, the text of a special token stands for that token.
fn prompts(
    value: Option<&Value>,
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let encode = |text: &str| non_empty(tokenizer.encode_with_special_tokens(text), tokenizer);
    let items = match value {
        None => return Err(ApiError::missing("prompt")),
        Some(Value::String(text)) => return Ok(vec![encode(text)]),
        Some(Value::Array(items)) => items,
        Some(_) => return Err(prompt_type("prompt")),
    };
    if items.len() > MAX_PROMPTS && !items[0].is_number() {
        let found = items.len();
        let message = format!("Invalid 'prompt': expected at most {MAX_PROMPTS} prompts, but got {found}.");
        return Err(ApiError::invalid("prompt", "array_above_max_length", message));
    }
    match items.first() {
        None => Err(ApiError::invalid("prompt", "empty_array", "Invalid 'prompt': empty array.")),
        Some(Value::Number(_)) => Ok(vec![token_ids("prompt", items, vocab_size)?]),
        Some(_) => {
            let prompts = items.iter().enumerate().map(|(i, item)| match item {
                Value::String(text) => Ok(encode(text)),
                Value::Array(ids) => token_ids(&format!("prompt[{i}]"), ids, vocab_size),
                _ => Err(prompt_type(&format!("prompt[{i}]"))),
            });
            prompts.collect()
        }
    }
}

/// A text that is empty is the beginning of a document.
fn non_empty(mut ids: Vec<u32>, tokenizer: &Tokenizer) -> Vec<u32> {
    if ids.is_empty() {
        ids.push(tokenizer.special(SpecialToken::EndOfText));
    }
    ids
}

/// Checks a list of token ids.
///
/// # Errors
/// 400 naming the list's place for an empty list, the item's for what is no token id.
pub(crate) fn token_ids(param: &str, items: &[Value], vocab_size: usize) -> Result<Vec<u32>, ApiError> {
    if items.is_empty() {
        return Err(ApiError::invalid(param, "empty_array", format!("Invalid '{param}': empty array.")));
    }
    let id = |(i, item): (usize, &Value)| {
        let id = item.as_u64().filter(|&id| id < vocab_size as u64);
        id.map(|id| id as u32).ok_or_else(|| {
            let param = format!("{param}[{i}]");
            let message =
                format!("Invalid '{param}': expected a token id below {vocab_size}, but got {item}.");
            ApiError::invalid(param, "invalid_value", message)
        })
    };
    items.iter().enumerate().map(id).collect()
}

fn prompt_type(param: &str) -> ApiError {
    let message =
        format!("Invalid type for '{param}': expected a string, strings, token ids or lists of token ids.");
    ApiError::invalid(param, "invalid_type", message)
}
