//! `ChatRequest` into a [`ChatPlan`].

use serde_json::{Map, Value};

use super::chat_messages::dialogue;
use super::chat_tools::tool_plan;
use super::dialogue::Dialogue;
use super::effort::{Effort, verbosity};
use super::format::{FormatFields, OutputFormat, output_format};
use super::sampling::{SamplingFields, sampling, shared_fields, top_logprobs};
use super::{TurnPlan, check, content};
use crate::error::ApiError;
use crate::state::AppState;
use crate::wire::chat::{ChatRequest, ResponseFormat};
use crate::wire::poly::TextOrList;

/// Most stop strings of a request.
const MAX_STOPS: usize = 4;

/// A checked chat request.
#[derive(Debug)]
pub(crate) struct ChatPlan {
    pub(crate) turn: TurnPlan,
    /// Name of the model as the answer says it.
    pub(crate) model: String,
    /// Number of answers.
    pub(crate) n: usize,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) include_reasoning: bool,
    pub(crate) include_obfuscation: bool,
    /// Calls go out in the deprecated shape.
    pub(crate) legacy_calls: bool,
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// Checks a request.
///
/// # Errors
/// 400 naming the field at fault, 404 for a model that is not served.
pub(crate) fn prepare(request: ChatRequest, state: &AppState) -> Result<ChatPlan, ApiError> {
    let model = state.resolve_model(request.model.as_deref())?;
    check::length("messages", request.messages.as_ref().map_or(0, Vec::len), state.config().max_messages)?;
    check::length("tools", request.tools.as_ref().map_or(0, Vec::len), state.config().max_tools)?;
    refuse_unsupported(&request)?;
    check_no_ops(&request)?;
    let stream = request.stream.unwrap_or(false);
    check::stream_options(request.stream_options.is_some(), stream)?;
    let n = check::integer("n", request.n, 1, 128)?.unwrap_or(1) as usize;
    let options = request.stream_options.clone().unwrap_or_default();
    Ok(ChatPlan {
        turn: turn(&request, state)?,
        model,
        n,
        stream,
        include_usage: options.include_usage.unwrap_or(false),
        include_reasoning: request.include_reasoning.unwrap_or(true),
        include_obfuscation: options.include_obfuscation.unwrap_or(false),
        legacy_calls: request.functions.is_some(),
        metadata: request.metadata,
    })
}

fn turn(request: &ChatRequest, state: &AppState) -> Result<TurnPlan, ApiError> {
    let max_tokens = max_tokens(request)?;
    let dialogue = messages(request)?;
    let kwargs_effort =
        request.chat_template_kwargs.as_ref().and_then(|kwargs| kwargs.reasoning_effort.as_deref());
    let effort = Effort::parse("reasoning_effort", request.reasoning_effort.as_deref().or(kwargs_effort))?
        .with_budget(state.config().max_reasoning_tokens, &reasoning_budgets(request))?;
    let closing = verbosity("verbosity", request.verbosity.as_deref())?;
    let tools = tool_plan(request)?;
    let format = response_format(request.response_format.as_ref())?;
    let shown = format.as_ref().map(|format| &format.shown);
    let mut sampling = sampling(&sampling_fields(request)?, state.vocab_size())?;
    if request.ignore_eos == Some(true) {
        sampling.min_tokens = max_tokens.unwrap_or(usize::MAX);
    }
    Ok(TurnPlan {
        prompt_param: "messages",
        truncate: false,
        conversation: dialogue.into_conversation(effort, closing, &tools, shown, state.current_date()),
        skip_analysis: effort.skip_analysis,
        max_reasoning_tokens: effort.max_reasoning_tokens,
        sampling,
        max_tokens,
        stop: stop(request.stop.as_ref())?,
        stop_token_ids: request.stop_token_ids.clone().unwrap_or_default(),
        callable: tools.callable,
        rules: tools.rules.into_iter().chain(format.map(|format| format.rule)).collect(),
        call_required: tools.required,
        // The deprecated form has room for one.
        parallel_calls: request.parallel_tool_calls.unwrap_or(true) && request.functions.is_none(),
        priority: request.priority.unwrap_or(0),
        cache_salt: request.cache_salt.clone(),
    })
}

/// The three names that the budget goes by.
fn reasoning_budgets(request: &ChatRequest) -> [(&'static str, Option<i64>); 3] {
    let nested = request.reasoning.as_ref().and_then(|reasoning| reasoning.max_tokens);
    [
        ("reasoning.max_tokens", nested),
        ("max_reasoning_tokens", request.max_reasoning_tokens),
        ("thinking_token_budget", request.thinking_token_budget),
    ]
}

fn messages(request: &ChatRequest) -> Result<Dialogue, ApiError> {
    let messages = request.messages.as_deref().ok_or_else(|| ApiError::missing("messages"))?;
    if messages.is_empty() {
        let message = "Invalid 'messages': empty array. Expected an array with minimum length 1.";
        return Err(ApiError::invalid("messages", "empty_array", message));
    }
    dialogue(messages)
}

fn max_tokens(request: &ChatRequest) -> Result<Option<usize>, ApiError> {
    let new = check::integer("max_completion_tokens", request.max_completion_tokens, 1, i64::MAX)?;
    let old = check::integer("max_tokens", request.max_tokens, 1, i64::MAX)?;
    if new.is_some() && old.is_some() && new != old {
        let message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        return Err(ApiError::invalid("max_tokens", "invalid_parameter_combination", message));
    }
    Ok(new.or(old).map(|number| number as usize))
}

fn sampling_fields(request: &ChatRequest) -> Result<SamplingFields<'_>, ApiError> {
    let top = top_logprobs(request.top_logprobs)?;
    let wanted = request.logprobs.unwrap_or(false);
    if top.is_some_and(|top| top > 0) && !wanted {
        let message = "Invalid 'top_logprobs': 'logprobs' must be true when 'top_logprobs' is used.";
        return Err(ApiError::invalid("top_logprobs", "invalid_value", message));
    }
    Ok(SamplingFields {
        logit_bias: request.logit_bias.as_ref(),
        min_tokens: request.min_tokens,
        top_logprobs: wanted.then(|| top.unwrap_or(0)),
        ..shared_fields!(request)
    })
}

/// `stop`: at most four strings.
pub(super) fn stop(value: Option<&TextOrList<String>>) -> Result<Vec<String>, ApiError> {
    let stops = match value {
        None => return Ok(Vec::new()),
        Some(TextOrList::Text(text)) => std::slice::from_ref(text),
        Some(TextOrList::List(texts)) => texts,
    };
    if stops.len() > MAX_STOPS {
        let found = stops.len();
        let message =
            format!("Invalid 'stop': array too long. Expected at most {MAX_STOPS} entries, but got {found}.");
        return Err(ApiError::invalid("stop", "array_above_max_length", message));
    }
    // An empty string would match before the first character; OpenAI takes it as no stop at all.
    Ok(stops.iter().filter(|text| !text.is_empty()).cloned().collect())
}

/// Fields whose meaning Ossia does not have (yet). None of them is dropped in silence.
fn refuse_unsupported(request: &ChatRequest) -> Result<(), ApiError> {
    let text_only = "The model reads and writes text only.";
    check::absent("audio", request.audio.as_ref(), text_only)?;
    check::absent("web_search_options", request.web_search_options.as_ref(), "There is no web search here.")?;
    check::absent("moderation", request.moderation.as_ref(), "There is no moderation here.")?;
    for modality in request.modalities.iter().flatten() {
        check::word("modalities", Some(modality), &["text", "audio"])?;
    }
    if request.modalities.iter().flatten().any(|modality| modality != "text") {
        return Err(ApiError::unsupported("modalities", text_only));
    }
    Ok(())
}

fn response_format(format: Option<&ResponseFormat>) -> Result<Option<OutputFormat>, ApiError> {
    let Some(format) = format else { return Ok(None) };
    let schema = format.json_schema.as_ref();
    if format.kind == "json_schema" && schema.is_none() {
        return Err(ApiError::missing("response_format.json_schema"));
    }
    output_format(&FormatFields {
        type_param: "response_format.type",
        param: "response_format.json_schema",
        kind: &format.kind,
        name: schema.map(|schema| schema.name.as_str()),
        description: schema.and_then(|schema| schema.description.as_deref()),
        schema: schema.and_then(|schema| schema.schema.as_ref()),
        strict: schema.and_then(|schema| schema.strict) == Some(true),
    })
}

/// Fields that OpenAI lets a server ignore: `user`, `prompt_cache_*` and these.
fn check_no_ops(request: &ChatRequest) -> Result<(), ApiError> {
    if let Some(prediction) = &request.prediction {
        check::word("prediction.type", Some(&prediction.kind), &["content"])?;
        content::text("prediction.content", &prediction.content)?;
    }
    check::word("prompt_cache_retention", request.prompt_cache_retention.as_deref(), &["in_memory", "24h"])?;
    check::safety_identifier(request.safety_identifier.as_deref())?;
    check::service_tier(request.service_tier.as_deref())?;
    check::metadata(request.metadata.as_ref())
}
