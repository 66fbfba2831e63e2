//! Responses that go on without their client.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response as HttpResponse};
use futures::{Stream, StreamExt};

use super::run::Run;
use crate::error::ApiError;
use crate::live::{Live, LiveGuard};
use crate::sse;
use crate::state::AppState;
use crate::store::{LoggedEvent, Tenant};
use crate::wire::responses::SequencedEvent;

/// Lets the run go on by itself, once it is stored; answers with its stream or with the response in the queue.
pub(super) async fn start(
    mut run: Run,
    stream: bool,
    tenant: &Tenant,
    state: &AppState,
) -> Result<HttpResponse, ApiError> {
    run.store_beginning().await?;
    let guard = state.live().begin(tenant, &run.response().id);
    let (queued, pad) = (run.response().clone(), run.pads());
    let live = Arc::clone(guard.live());
    tokio::spawn(drive(run, guard));
    if stream {
        return Ok(sse::response(state.config(), follow(live, 0, pad)));
    }
    Ok(Json(queued).into_response())
}

/// The events of a live response from the one of number `first` on, as a stream to a client.
pub(super) fn follow(
    live: Arc<Live>,
    first: usize,
    pad: bool,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    let events = live.follow(first).map(move |event| Ok(sse::named(&event.name, &event.data, pad)));
    events.chain(futures::stream::iter([Ok(sse::done())]))
}

/// Runs to the end, or until somebody cancels.
async fn drive(mut run: Run, guard: LiveGuard) {
    let live = guard.live();
    publish(live, run.begin());
    loop {
        // Only waiting is given up for a cancellation, never the writing of what has happened.
        let event = tokio::select! {
            biased;
            () = live.cancelled() => {
                publish(live, run.cancel().await);
                return;
            }
            event = run.turn_event() => event,
        };
        let Some(event) = event else { return };
        let events = run.accept(event).await;
        let ended = events.iter().any(|event| event.event.terminal().is_some());
        publish(live, events);
        if ended {
            return; // whoever cancels now comes too late
        }
    }
}

fn publish(live: &Live, events: Vec<SequencedEvent>) {
    for event in events {
        let name = event.event.name().to_owned();
        // Wire types have string keys and no failing implementations.
        let data = serde_json::to_value(&event).unwrap_or_default();
        live.push(LoggedEvent { name, data });
    }
}
