//! `/v1/completions`: raw text, without harmony's envelope.

mod pieces;

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::Stream;
use futures::stream::{BoxStream, SelectAll, StreamExt, iter, unfold};

use pieces::{CompletionFold, PieceBuilder};

use crate::access::{Admission, Caller};
use crate::error::ApiError;
use crate::extract::ApiJson;
use crate::prepare::completions::{CompletionPlan, prepare};
use crate::sse;
use crate::state::AppState;
use crate::turn::{Choices, EndReason, RawStarter, TurnEnd, TurnEvent, Usage};
use crate::wire::completion::{Completion, CompletionRequest};

/// An event with the index of its answer.
type AnswerEvent = Result<(usize, TurnEvent), ApiError>;

/// Events of all answers to all prompts.
type Answers = SelectAll<BoxStream<'static, AnswerEvent>>;

/// Continues text, whole or as a stream of pieces.
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    ApiJson(request): ApiJson<CompletionRequest>,
) -> Result<Response, ApiError> {
    let plan = prepare(request, &state)?;
    let builder = PieceBuilder::new(&plan, state.tokenizer());
    let answers = start(&state, &caller.admit(&state, &plan.model)?, &plan).await?;
    if plan.stream {
        return Ok(sse::response(state.config(), stream(answers, builder)));
    }
    Ok(Json(complete(answers, builder).await?).into_response())
}

/// Starts every prompt: answer `j` to prompt `i` has the index `i * n + j`.
async fn start(state: &AppState, admission: &Admission, plan: &CompletionPlan) -> Result<Answers, ApiError> {
    let mut answers = SelectAll::new();
    for (i, prompt) in plan.prompts.iter().enumerate() {
        let first = i * plan.n;
        let starter = RawStarter::new(state, admission.clone(), plan.raw.clone(), prompt.clone())?;
        if plan.raw.max_tokens == 0 {
            answers.push(iter(unanswered(first, plan.n, prompt.len())).boxed());
            continue;
        }
        let choices = Choices::start(move |index| starter.start(index), plan.n).await?;
        let events = unfold(choices, move |mut choices| async move {
            let event = choices.next().await?.map(|(index, event)| (first + index, event));
            Some((event, choices))
        });
        answers.push(events.boxed());
    }
    Ok(answers)
}

/// Answers of no tokens.
fn unanswered(first: usize, n: usize, prompt_tokens: usize) -> Vec<AnswerEvent> {
    let usage = Usage { prompt_tokens, ..Usage::default() };
    let end = TurnEnd { reason: EndReason::Length, usage };
    let events = [TurnEvent::Started, TurnEvent::Finished(end)];
    (first..first + n).flat_map(|index| events.clone().map(|event| Ok((index, event)))).collect()
}

async fn complete(mut answers: Answers, mut builder: PieceBuilder) -> Result<Completion, ApiError> {
    let mut fold = CompletionFold::default();
    while let Some(next) = answers.next().await {
        let (index, event) = next?;
        if let Some(piece) = builder.push(index, event)? {
            fold.push(piece);
        }
    }
    Ok(fold.finish(builder.usage_piece()))
}

fn stream(mut answers: Answers, mut builder: PieceBuilder) -> impl Stream<Item = Result<Event, Infallible>> {
    async_stream::stream! {
        while let Some(next) = answers.next().await {
            match next.and_then(|(index, event)| builder.push(index, event)) {
                Ok(Some(piece)) => yield Ok(sse::data(&piece)),
                Ok(None) => {}
                Err(error) => {
                    yield Ok(sse::data(&error.body()));
                    yield Ok(sse::done());
                    return;
                }
            }
        }
        if builder.include_usage() {
            yield Ok(sse::data(&builder.usage_piece()));
        }
        yield Ok(sse::done());
    }
}
