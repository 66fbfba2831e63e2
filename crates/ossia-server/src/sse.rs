//! Server-sent events.

use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Serialize;
use uuid::Uuid;

use crate::state::ServerConfig;

/// Sends a stream, each event in one write, with a comment whenever it pauses. Dropping the response drops it.
pub(crate) fn response(
    config: &ServerConfig,
    events: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
) -> Response {
    let keep_alive = KeepAlive::new().interval(config.keep_alive).text("keep-alive");
    let headers = [("x-accel-buffering", "no")]; // a reverse proxy must not collect the events
    (headers, Sse::new(events).keep_alive(keep_alive)).into_response()
}

/// An event without a name, as chat completions send them.
pub(crate) fn data<T: Serialize>(value: &T) -> Event {
    // Wire types have string keys and no failing implementations, so the fallback is never seen.
    Event::default().data(serde_json::to_string(value).unwrap_or_default())
}

/// An event with a name, as responses send them.
pub(crate) fn named<T: Serialize>(name: &str, value: &T) -> Event {
    data(value).event(name)
}

/// Random characters that fill a text of `len` bytes up to a multiple of 32.
pub(crate) fn obfuscation(len: usize) -> String {
    let mut random = Uuid::new_v4().simple().to_string();
    random.truncate(32 - len % 32);
    random
}

/// The end of a stream.
pub(crate) fn done() -> Event {
    Event::default().data("[DONE]")
}
