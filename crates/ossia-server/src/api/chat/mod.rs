//! `/v1/chat/completions`.

mod chunks;
mod fold;
pub(crate) mod stored;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures::Stream;

pub(crate) use chunks::{ChunkBuilder, wire_usage};
pub(crate) use fold::CompletionFold;
use stored::Keeper;

use crate::access::Caller;
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
    caller: Caller,
    ApiJson(request): ApiJson<ChatRequest>,
) -> Result<Response, ApiError> {
    let keeper = Keeper::new(&request, &caller.tenant(), &state);
    let plan = prepare(request, &state)?;
    let admission = caller.admit(&state, &plan.model)?;
    let builder = ChunkBuilder::new(&plan);
    let starter = TurnStarter::new(&state, admission, plan.turn.clone()).await?;
    let choices = Choices::start(move |index| starter.start(index), plan.n).await?;
    if plan.stream {
        return Ok(sse::response(state.config(), stream(choices, builder, plan, keeper)));
    }
    Ok(Json(complete(choices, builder, plan, keeper).await?).into_response())
}

async fn complete(
    mut choices: Choices,
    mut builder: ChunkBuilder,
    plan: ChatPlan,
    keeper: Option<Keeper>,
) -> Result<ChatCompletion, ApiError> {
    let mut fold = CompletionFold::new(plan.n);
    while let Some(next) = choices.next().await {
        let (index, event) = next?;
        if let Some(chunk) = builder.push(index, event)? {
            fold.push(&chunk);
        }
    }
    let completion = fold.finish(&builder.usage_chunk(), plan.metadata);
    if let Some(keeper) = keeper {
        keeper.keep(&completion).await?;
    }
    Ok(completion)
}

fn stream(
    mut choices: Choices,
    mut builder: ChunkBuilder,
    plan: ChatPlan,
    keeper: Option<Keeper>,
) -> impl Stream<Item = Result<axum::response::sse::Event, std::convert::Infallible>> {
    async_stream::stream! {
        let mut fold = CompletionFold::new(plan.n);
        while let Some(next) = choices.next().await {
            match next.and_then(|(index, event)| builder.push(index, event)) {
                Ok(Some(chunk)) => {
                    if keeper.is_some() {
                        fold.push(&chunk);
                    }
                    yield Ok(sse::data(&chunk));
                }
                Ok(None) => {}
                Err(error) => {
                    yield Ok(sse::data(&error.body()));
                    yield Ok(sse::done());
                    return;
                }
            }
        }
        if let Some(keeper) = keeper {
            let completion = fold.finish(&builder.usage_chunk(), plan.metadata);
            if let Err(error) = keeper.keep(&completion).await {
                yield Ok(sse::data(&error.body()));
                yield Ok(sse::done());
                return;
            }
        }
        if builder.include_usage() {
            yield Ok(sse::data(&builder.usage_chunk()));
        }
        yield Ok(sse::done());
    }
}
