//! `ResponseRequest` into a [`ResponsePlan`].

use super::dialogue::Dialogue;
use super::effort::{Effort, verbosity};
use super::format::{FormatFields, OutputFormat, output_format};
use super::response_tools::tool_plan;
use super::sampling::{SamplingFields, sampling, shared_fields, top_logprobs};
use super::{TurnPlan, check, echo};
use crate::error::ApiError;
use crate::state::AppState;
use crate::store::{History, Origin};
use crate::wire::poly::TextOrList;
use crate::wire::responses::{InputItem, Response, ResponseRequest};

/// Least value of `max_output_tokens`, as in OpenAI's document.
const MIN_OUTPUT_TOKENS: i64 = 16;
/// `include` values that ask for what a server without hosted tools never has, so that there is nothing to add.
const EMPTY_INCLUDES: [&str; 6] = [
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
];
const INCLUDE_LOGPROBS: &str = "message.output_text.logprobs";
const INCLUDE_ENCRYPTED: &str = "reasoning.encrypted_content";

/// A checked response request.
#[derive(Debug)]
pub(crate) struct ResponsePlan {
    pub(crate) turn: TurnPlan,
    pub(crate) stream: bool,
    /// Whether pieces of text are padded in the stream.
    pub(crate) pads: bool,
    /// Whether the chain of thought is wanted sealed as well.
    pub(crate) seal: bool,
    /// The response as it stands before the first token; it echoes the request.
    pub(crate) response: Response,
    /// This turn's input, as it will be stored.
    pub(crate) input: Vec<InputItem>,
    /// The turns before this one.
    pub(crate) history: History,
}

/// Checks what needs no state; gives the model's name.
///
/// # Errors
/// 400 naming the field at fault, 404 for a model that is not served.
pub(crate) fn check(request: &ResponseRequest, state: &AppState) -> Result<String, ApiError> {
    let model = state.resolve_model(request.model.as_deref())?;
    if let Some(TextOrList::List(items)) = &request.input {
        check::length("input", items.len(), state.config().max_messages)?;
    }
    check::length("tools", request.tools.as_ref().map_or(0, Vec::len), state.config().max_tools)?;
    refuse_unsupported(request)?;
    check::service_tier(request.service_tier.as_deref())?;
    check::metadata(request.metadata.as_ref())?;
    background(request, state)?;
    Ok(model)
}

/// The plan of a request that was checked; `input` and `history` have no references and nothing sealed left.
///
/// # Errors
/// 400 naming the field at fault.
pub(crate) fn plan(
    request: ResponseRequest,
    model: String,
    input: Vec<InputItem>,
    history: History,
    state: &AppState,
) -> Result<ResponsePlan, ApiError> {
    let turn = turn(&request, &input, &history, state)?;
    let stream = request.stream.unwrap_or(false);
    let pads = request.stream_options.as_ref().and_then(|options| options.include_obfuscation) == Some(true);
    let seal = request.include.iter().flatten().any(|include| include == INCLUDE_ENCRYPTED);
    let mut response = echo::response(request, model);
    response.store &= state.store().keeps();
    Ok(ResponsePlan { turn, stream, pads, seal, response, input, history })
}

/// What runs in the background is found again through the store.
fn background(request: &ResponseRequest, state: &AppState) -> Result<(), ApiError> {
    if request.background != Some(true) {
        return Ok(());
    }
    if request.store == Some(false) {
        let message =
            "Invalid 'background': a response in the background has to be stored; set 'store' to true.";
        return Err(ApiError::invalid("background", "invalid_parameter_combination", message));
    }
    if !state.store().keeps() {
        return Err(ApiError::unsupported("background", "This server stores nothing."));
    }
    Ok(())
}

fn turn(
    request: &ResponseRequest,
    input: &[InputItem],
    history: &History,
    state: &AppState,
) -> Result<TurnPlan, ApiError> {
    let effort = request.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_deref());
    let budget = request.reasoning.as_ref().and_then(|reasoning| reasoning.max_tokens);
    let effort = Effort::parse("reasoning.effort", effort)?
        .with_budget(state.config().max_reasoning_tokens, &[("reasoning.max_tokens", budget)])?;
    let asked = request.text.as_ref().and_then(|text| text.verbosity.as_deref());
    let closing = verbosity("text.verbosity", asked)?;
    let tools = tool_plan(request)?;
    let format = text_format(request)?;
    let shown = format.as_ref().map(|format| &format.shown);
    let dialogue = dialogue(request, input, history)?;
    let max_tokens =
        check::integer("max_output_tokens", request.max_output_tokens, MIN_OUTPUT_TOKENS, i64::MAX)?;
    Ok(TurnPlan {
        prompt_param: "input",
        truncate: request.truncation.as_deref() == Some("auto"),
        conversation: dialogue.into_conversation(effort, closing, &tools, shown, history.date.clone()),
        skip_analysis: effort.skip_analysis,
        max_reasoning_tokens: effort.max_reasoning_tokens,
        sampling: sampling(&sampling_fields(request)?, state.vocab_size())?,
        max_tokens: max_tokens.map(|number| number as usize),
        stop: Vec::new(),
        stop_token_ids: Vec::new(),
        callable: tools.callable,
        rules: tools.rules.into_iter().chain(format.map(|format| format.rule)).collect(),
        call_required: tools.required,
        parallel_calls: request.parallel_tool_calls.unwrap_or(true),
        priority: request.priority.unwrap_or(0),
        cache_salt: request.cache_salt.clone(),
    })
}

fn dialogue(request: &ResponseRequest, input: &[InputItem], history: &History) -> Result<Dialogue, ApiError> {
    let mut dialogue = Dialogue::default();
    request.instructions.iter().for_each(|text| dialogue.instruct(text.clone()));
    let origin = match history.origin {
        Origin::Conversation { .. } => "conversation",
        _ => "previous_response_id",
    };
    dialogue.push_items(origin, &history.items)?;
    dialogue.push_items("input", input)?;
    Ok(dialogue)
}

fn sampling_fields(request: &ResponseRequest) -> Result<SamplingFields<'_>, ApiError> {
    let top = top_logprobs(request.top_logprobs)?;
    let wanted = request.include.iter().flatten().any(|include| include == INCLUDE_LOGPROBS);
    if top.is_some_and(|top| top > 0) && !wanted {
        let message = format!("Invalid 'top_logprobs': 'include' must hold '{INCLUDE_LOGPROBS}'.");
        return Err(ApiError::invalid("top_logprobs", "invalid_value", message));
    }
    Ok(SamplingFields { top_logprobs: wanted.then(|| top.unwrap_or(0)), ..shared_fields!(request) })
}

/// Fields whose meaning Ossia does not have (yet). None of them is dropped in silence.
fn refuse_unsupported(request: &ResponseRequest) -> Result<(), ApiError> {
    check::absent(
        "context_management",
        request.context_management.as_ref(),
        "Contexts are not compacted here yet.",
    )?;
    check::absent("moderation", request.moderation.as_ref(), "There is no moderation here.")?;
    check::absent("prompt", request.prompt.as_ref(), "There are no prompt templates here.")?;
    check::word("truncation", request.truncation.as_deref(), &["auto", "disabled"])?;
    includes(request.include.as_deref().unwrap_or_default())?;
    reasoning(request)
}

fn includes(includes: &[String]) -> Result<(), ApiError> {
    for (i, include) in includes.iter().enumerate() {
        let param = format!("include[{i}]");
        match include.as_str() {
            INCLUDE_LOGPROBS | INCLUDE_ENCRYPTED => {}
            known if EMPTY_INCLUDES.contains(&known) => {}
            other => {
                let allowed = [&[INCLUDE_LOGPROBS, INCLUDE_ENCRYPTED][..], &EMPTY_INCLUDES].concat();
                return Err(ApiError::invalid_value(param, other, &allowed));
            }
        }
    }
    Ok(())
}

/// Summaries may be asked for; there is none, since the chain of thought itself is sent.
fn reasoning(request: &ResponseRequest) -> Result<(), ApiError> {
    let Some(reasoning) = &request.reasoning else { return Ok(()) };
    let summaries = ["auto", "concise", "detailed"];
    check::word("reasoning.summary", reasoning.summary.as_deref(), &summaries)?;
    check::word("reasoning.generate_summary", reasoning.generate_summary.as_deref(), &summaries)?;
    check::word("reasoning.context", reasoning.context.as_deref(), &["auto", "current_turn"])?;
    check::word("reasoning.mode", reasoning.mode.as_deref(), &["standard"])
}

fn text_format(request: &ResponseRequest) -> Result<Option<OutputFormat>, ApiError> {
    let Some(format) = request.text.as_ref().and_then(|text| text.format.as_ref()) else { return Ok(None) };
    output_format(&FormatFields {
        type_param: "text.format.type",
        param: "text.format",
        kind: &format.kind,
        name: format.name.as_deref(),
        description: format.description.as_deref(),
        schema: format.schema.as_ref(),
        strict: format.strict == Some(true),
    })
}
