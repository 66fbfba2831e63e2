//! `/tokenize`, `/detokenize` and `/v1/chat/completions/render`: what the model sees, without running it.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use crate::error::ApiError;
use crate::extract::{ApiJson, from_value};
use crate::ids::new_id;
use crate::prepare::chat::{ChatPlan, prepare};
use crate::prepare::completions::token_ids;
use crate::state::AppState;
use crate::turn::render;
use crate::wire::chat::ChatRequest;
use crate::wire::tokens::{DetokenizeRequest, Detokenized, Rendered, TokenizeChat, TokenizeText, Tokenized};

/// Tokens of a text, in which the text of a special token stands for that token, or of a chat request.
pub(crate) async fn tokenize(
    State(state): State<AppState>,
    ApiJson(body): ApiJson<Value>,
) -> Result<Json<Tokenized>, ApiError> {
    let (tokens, with_text) = if body.get("messages").is_some() {
        let options: TokenizeChat = from_value(body.clone())?;
        refuse_partial_prompts(&options)?;
        let plan = prepare(from_value::<ChatRequest>(body)?, &state)?;
        (prompt(&plan, &state), options.return_token_strs)
    } else {
        let text: TokenizeText = from_value(body)?;
        state.resolve_model(text.model.as_deref())?;
        (state.tokenizer().encode_with_special_tokens(&text.prompt), text.return_token_strs)
    };
    let text = |&id: &u32| state.tokenizer().decode(&[id]);
    Ok(Json(Tokenized {
        count: tokens.len(),
        max_model_len: state.engine().config().max_model_len,
        token_strs: with_text.unwrap_or(false).then(|| tokens.iter().map(text).collect()),
        tokens,
    }))
}

/// The text of tokens.
pub(crate) async fn detokenize(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<DetokenizeRequest>,
) -> Result<Json<Detokenized>, ApiError> {
    state.resolve_model(request.model.as_deref())?;
    let tokens = match request.tokens.as_slice() {
        [] => Vec::new(),
        items => token_ids("tokens", items, state.vocab_size())?,
    };
    Ok(Json(Detokenized { prompt: state.tokenizer().decode(&tokens) }))
}

/// The prompt of a chat request.
pub(crate) async fn render_chat(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<ChatRequest>,
) -> Result<Json<Rendered>, ApiError> {
    let plan = prepare(request, &state)?;
    let token_ids = prompt(&plan, &state);
    let prompt = state.tokenizer().decode(&token_ids);
    Ok(Json(Rendered { request_id: new_id("chatcmpl-"), model: plan.model, token_ids, prompt }))
}

fn prompt(plan: &ChatPlan, state: &AppState) -> Vec<u32> {
    render(&plan.turn.conversation, plan.turn.skip_analysis, state.tokenizer())
}

/// A prompt always ends where the model's turn begins.
fn refuse_partial_prompts(options: &TokenizeChat) -> Result<(), ApiError> {
    if options.add_generation_prompt == Some(false) {
        return Err(ApiError::unsupported(
            "add_generation_prompt",
            "A prompt always ends with the assistant's turn.",
        ));
    }
    if options.continue_final_message == Some(true) {
        let reason = "A final message cannot be continued.";
        return Err(ApiError::unsupported("continue_final_message", reason));
    }
    Ok(())
}
