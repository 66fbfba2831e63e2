//! `/v1/responses`.

mod background;
pub(crate) mod compact;
mod events;
mod resolve;
mod run;
pub(crate) mod socket;
pub(crate) mod stored;
pub(crate) mod tokens;

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response as HttpResponse};
use futures::Stream;

#[cfg(test)]
pub(crate) use events::EventBuilder;
pub(crate) use resolve::open;
use run::Run;

use crate::access::Caller;
use crate::error::ApiError;
use crate::extract::ApiJson;
use crate::prepare::responses::{ResponsePlan, check, plan};
use crate::sse;
use crate::state::AppState;
use crate::store::Tenant;
use crate::wire::responses::{Response, ResponseRequest};

/// Answers a response request: whole, as a stream of events, or with the promise of a response in the background.
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    ApiJson(request): ApiJson<ResponseRequest>,
) -> Result<HttpResponse, ApiError> {
    let tenant = caller.tenant();
    let plan = prepare(request, &tenant, &state).await?;
    let (stream, background) = (plan.stream, plan.response.background);
    let run = Run::start(plan, &caller, &state).await?;
    match (stream, background) {
        (stream, true) => background::start(run, stream, &tenant, &state).await,
        (true, false) => Ok(sse::response(state.config(), sse_events(run))),
        (false, false) => Ok(Json(complete(run).await?).into_response()),
    }
}

/// Checks a request and finds what it refers to.
async fn prepare(
    mut request: ResponseRequest,
    tenant: &Tenant,
    state: &AppState,
) -> Result<ResponsePlan, ApiError> {
    let model = check(&request, state)?;
    let history = resolve::history(&request, tenant, state).await?;
    let input = resolve::input(request.input.take(), tenant, state).await?;
    plan(request, model, input, history, state)
}

fn sse_events(mut run: Run) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let pad = run.pads();
    async_stream::stream! {
        for event in run.begin() {
            yield Ok(sse::named(event.event.name(), &event, pad));
        }
        while let Some(events) = run.next().await {
            for event in events {
                yield Ok(sse::named(event.event.name(), &event, pad));
            }
        }
        yield Ok(sse::done());
    }
}

/// The response that the stream's last event holds.
async fn complete(mut run: Run) -> Result<Response, ApiError> {
    run.begin();
    while run.next().await.is_some() {}
    if let Some(error) = run.take_unkept() {
        return Err(error);
    }
    match run.response() {
        Response { error: Some(error), .. } => Err(ApiError::Internal { reason: error.message.clone() }),
        response => Ok(response.clone()),
    }
}
