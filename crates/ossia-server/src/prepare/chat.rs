//! `ChatRequest` into a [`ChatPlan`].

use serde_json::{Map, Value};

use super::chat_messages::dialogue;
use super::dialogue::Dialogue;
use super::effort::{Effort, verbosity};
use super::sampling::{SamplingFields, sampling, top_logprobs};
use super::tools::{self, Choice, Declared, ToolPlan};
use super::{TurnPlan, check};
use crate::error::ApiError;
use crate::state::AppState;
use crate::wire::chat::{ChatRequest, ChatTool, ChatToolChoice, ResponseFormat};
use crate::wire::poly::{TextOrList, TextOrObject};

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
    pub(crate) metadata: Option<Map<String, Value>>,
}

/// Checks a request.
///
/// # Errors
/// 400 naming the field at fault, 404 for a model that is not served.
pub(crate) fn prepare(request: ChatRequest, state: &AppState) -> Result<ChatPlan, ApiError> {
    let model = state.resolve_model(request.model.as_deref())?;
    refuse_unsupported(&request)?;
    check_no_ops(&request)?;
    let stream = request.stream.unwrap_or(false);
    if request.stream_options.is_some() && !stream {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(ApiError::invalid("stream_options", "invalid_value", message));
    }
    let n = check::integer("n", request.n, 1, 128)?.unwrap_or(1) as usize;
    let include_usage =
        request.stream_options.as_ref().and_then(|options| options.include_usage).unwrap_or(false);
    let turn = turn(&request, state)?;
    let include_reasoning = request.include_reasoning.unwrap_or(true);
    Ok(ChatPlan { turn, model, n, stream, include_usage, include_reasoning, metadata: request.metadata })
}

fn turn(request: &ChatRequest, state: &AppState) -> Result<TurnPlan, ApiError> {
    let max_tokens = max_tokens(request)?;
    let dialogue = messages(request)?;
    let kwargs_effort =
        request.chat_template_kwargs.as_ref().and_then(|kwargs| kwargs.reasoning_effort.as_deref());
    let effort = Effort::parse("reasoning_effort", request.reasoning_effort.as_deref().or(kwargs_effort))?;
    let closing = verbosity("verbosity", request.verbosity.as_deref())?;
    let tools = tool_plan(request)?;
    let mut sampling = sampling(&sampling_fields(request)?, state.vocab_size())?;
    if request.ignore_eos == Some(true) {
        sampling.min_tokens = max_tokens.unwrap_or(usize::MAX);
    }
    Ok(TurnPlan {
        prompt_param: "messages",
        truncate: false,
        conversation: dialogue.into_conversation(effort, closing, &tools, state.current_date()),
        skip_analysis: effort.skip_analysis,
        sampling,
        max_tokens,
        stop: stop(request.stop.as_ref())?,
        stop_token_ids: request.stop_token_ids.clone().unwrap_or_default(),
        callable: tools.callable,
        call_required: tools.required,
        priority: request.priority.unwrap_or(0),
        cache_salt: request.cache_salt.clone(),
    })
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
        temperature: request.temperature,
        top_p: request.top_p,
        top_k: request.top_k,
        min_p: request.min_p,
        presence_penalty: request.presence_penalty,
        frequency_penalty: request.frequency_penalty,
        repetition_penalty: request.repetition_penalty,
        logit_bias: request.logit_bias.as_ref(),
        seed: request.seed,
        min_tokens: request.min_tokens,
        top_logprobs: wanted.then(|| top.unwrap_or(0)),
    })
}

fn stop(value: Option<&TextOrList<String>>) -> Result<Vec<String>, ApiError> {
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

fn tool_plan(request: &ChatRequest) -> Result<ToolPlan, ApiError> {
    let declared = request.tools.as_deref().unwrap_or_default();
    let functions = declared.iter().enumerate().map(|(i, tool)| declared_function(i, tool));
    let functions = functions.collect::<Result<Vec<_>, _>>()?;
    tools::plan(functions.into_iter(), &choice(request.tool_choice.as_ref())?)
}

fn declared_function(index: usize, tool: &ChatTool) -> Result<Declared<'_>, ApiError> {
    match (tool.kind.as_str(), &tool.function) {
        ("function", Some(function)) => Ok(Declared {
            param: format!("tools[{index}].function"),
            name: &function.name,
            description: function.description.as_deref(),
            parameters: function.parameters.as_ref(),
        }),
        ("function", None) => Err(ApiError::missing(format!("tools[{index}].function"))),
        ("custom", _) => {
            Err(ApiError::unsupported(format!("tools[{index}].type"), "Custom tools are not supported yet."))
        }
        (other, _) => {
            Err(ApiError::invalid_value(format!("tools[{index}].type"), other, &["function", "custom"]))
        }
    }
}

fn choice(value: Option<&ChatToolChoice>) -> Result<Choice, ApiError> {
    let object = match value {
        None => return Ok(Choice::Auto),
        Some(TextOrObject::Text(mode)) => return tools::mode("tool_choice", mode),
        Some(TextOrObject::Object(object)) => object,
    };
    match (object.kind.as_str(), &object.function, &object.allowed_tools) {
        ("function", Some(function), _) => Ok(Choice::Named(function.name.clone())),
        ("function", None, _) => Err(ApiError::missing("tool_choice.function")),
        ("allowed_tools", _, Some(allowed)) => {
            check::word("tool_choice.allowed_tools.mode", Some(&allowed.mode), &["auto", "required"])?;
            let names =
                allowed.tools.iter().filter_map(|tool| tool.function.as_ref()).map(|f| f.name.clone());
            Ok(Choice::Allowed { required: allowed.mode == "required", names: names.collect() })
        }
        ("allowed_tools", _, None) => Err(ApiError::missing("tool_choice.allowed_tools")),
        ("custom", ..) => Err(ApiError::unsupported("tool_choice", "Custom tools are not supported yet.")),
        (other, ..) => {
            Err(ApiError::invalid_value("tool_choice.type", other, &["function", "allowed_tools", "custom"]))
        }
    }
}

/// Fields whose meaning Ossia does not have (yet). None of them is dropped in silence.
fn refuse_unsupported(request: &ChatRequest) -> Result<(), ApiError> {
    let text_only = "The model reads and writes text only.";
    check::absent("audio", request.audio.as_ref(), text_only)?;
    check::absent("web_search_options", request.web_search_options.as_ref(), "There is no web search here.")?;
    check::absent("moderation", request.moderation.as_ref(), "There is no moderation here.")?;
    check::absent("functions", request.functions.as_ref(), "Use 'tools' instead.")?;
    check::absent("function_call", request.function_call.as_ref(), "Use 'tool_choice' instead.")?;
    let obfuscation = request.stream_options.as_ref().and_then(|options| options.include_obfuscation);
    check::off("stream_options.include_obfuscation", obfuscation, "Streams are not padded.")?;
    if request.modalities.iter().flatten().any(|modality| modality != "text") {
        return Err(ApiError::unsupported("modalities", text_only));
    }
    response_format(request.response_format.as_ref())
}

fn response_format(format: Option<&ResponseFormat>) -> Result<(), ApiError> {
    let Some(format) = format else { return Ok(()) };
    check::word("response_format.type", Some(&format.kind), &["text", "json_object", "json_schema"])?;
    if format.kind == "text" {
        return Ok(());
    }
    Err(ApiError::unsupported("response_format", "Output cannot be constrained to a format yet."))
}

/// Fields that OpenAI lets a server ignore: `user`, `prediction`, `prompt_cache_*` and these.
fn check_no_ops(request: &ChatRequest) -> Result<(), ApiError> {
    check::service_tier(request.service_tier.as_deref())?;
    check::metadata(request.metadata.as_ref())
}
