//! `/v1/chat/completions`.

mod chunks;
mod fold;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::Stream;

pub(crate) use chunks::ChunkBuilder;
pub(crate) use fold::CompletionFold;

use crate::error::ApiError;
use crate::extract::ApiJson;
use crate::prepare::chat::{ChatPlan, prepare};
use crate::sse;
use crate::state::AppState;
use crate::turn::{Choices, TurnStarter};
use crate::wire::chat::{ChatCompletion, ChatRequest};

/// Answers a chat request, whole or as a stream of chunks.
pub(crate) async fn create(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<ChatRequest>,
) -> Result<Response, ApiError> {
    let plan = prepare(request, &state)?;
    let builder = ChunkBuilder::new(&plan);
    let starter = TurnStarter::new(&state, plan.turn.clone())?;
    let choices = Choices::start(starter, plan.n)?;
    if plan.stream {
        return Ok(sse::response(state.config(), stream(choices, builder)));
    }
    Ok(Json(complete(choices, builder, plan).await?).into_response())
}

async fn complete(
    mut choices: Choices,
    mut builder: ChunkBuilder,
    plan: ChatPlan,
) -> Result<ChatCompletion, ApiError> {
    let mut fold = CompletionFold::new(plan.n);
    while let Some((index, event)) = choices.next().await {
        if let Some(chunk) = builder.push(index, event)? {
            fold.push(&chunk);
        }
    }
    Ok(fold.finish(&builder.usage_chunk(), plan.metadata))
}

fn stream(
    mut choices: Choices,
    mut builder: ChunkBuilder,
) -> impl Stream<Item = Result<axum::response::sse::Event, std::convert::Infallible>> {
    async_stream::stream! {
        while let Some((index, event)) = choices.next().await {
            match builder.push(index, event) {
                Ok(Some(chunk)) => yield Ok(sse::data(&chunk)),
                Ok(None) => {}
                Err(error) => {
                    yield Ok(sse::data(&error.body()));
                    yield Ok(sse::done());
                    return;
                }
            }
        }
        if builder.include_usage() {
            yield Ok(sse::data(&builder.usage_chunk()));
        }
        yield Ok(sse::done());
    }
}
