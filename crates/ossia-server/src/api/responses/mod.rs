//! `/v1/responses`.

mod events;
pub(crate) mod stored;

use std::convert::Infallible;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response as HttpResponse};
use futures::{Stream, StreamExt};

pub(crate) use events::EventBuilder;

use crate::error::ApiError;
use crate::extract::ApiJson;
use crate::prepare::responses::{ResponsePlan, prepare};
use crate::sse;
use crate::state::AppState;
use crate::store::{History, StoredResponse};
use crate::turn::{Turn, TurnStarter};
use crate::wire::responses::{InputItem, Response, ResponseRequest, ResponseStatus, SequencedEvent};

/// Answers a response request, whole or as a stream of events.
pub(crate) async fn create(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<ResponseRequest>,
) -> Result<HttpResponse, ApiError> {
    let ResponsePlan { turn, stream, response, input, history } = prepare(request, &state)?;
    let turn = TurnStarter::new(&state, turn)?.start(0)?;
    let events = events(turn, EventBuilder::new(response));
    let keeper = Keeper { state: state.clone(), input, history };
    if stream {
        return Ok(sse::response(state.config(), sse_events(events, keeper)));
    }
    Ok(Json(complete(events, keeper).await?).into_response())
}

/// Keeps a finished response, if it is to be kept.
struct Keeper {
    state: AppState,
    input: Vec<InputItem>,
    history: History,
}

impl Keeper {
    /// Called with every event; only the last one has a finished response.
    fn see(&self, event: &SequencedEvent) {
        let Some(response) = event.event.terminal() else { return };
        if response.store && response.status != ResponseStatus::Failed {
            let stored = StoredResponse::new(response.clone(), self.input.clone(), self.history.clone());
            self.state.store().put(stored);
        }
    }
}

/// All events of a response, in order.
fn events(mut turn: Turn, mut builder: EventBuilder) -> impl Stream<Item = SequencedEvent> + Send {
    async_stream::stream! {
        for event in builder.begin() {
            yield event;
        }
        while let Some(event) = turn.next().await {
            for event in builder.push(event) {
                yield event;
            }
        }
    }
}

fn sse_events(
    events: impl Stream<Item = SequencedEvent> + Send,
    keeper: Keeper,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    async_stream::stream! {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            keeper.see(&event);
            yield Ok(sse::named(event.event.name(), &event));
        }
        yield Ok(sse::done());
    }
}

/// The response that the stream's last event holds.
async fn complete(
    events: impl Stream<Item = SequencedEvent> + Send,
    keeper: Keeper,
) -> Result<Response, ApiError> {
    let mut events = std::pin::pin!(events);
    let mut finished = None;
    while let Some(event) = events.next().await {
        keeper.see(&event);
        finished = event.event.terminal().cloned().or(finished);
    }
    match finished {
        Some(Response { error: Some(error), .. }) => Err(ApiError::Internal { reason: error.message }),
        Some(response) => Ok(response),
        None => Err(ApiError::Internal { reason: "the turn ended without a last event".to_owned() }),
    }
}
