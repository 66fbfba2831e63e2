//! Server-sent events.

use std::convert::Infallible;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::Stream;
use serde::Serialize;
use serde_json::Value;
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

/// An event with a name, as responses send them; padded if that is asked for.
pub(crate) fn named<T: Serialize>(name: &str, value: &T, pad: bool) -> Event {
    if !pad {
        return data(value).event(name);
    }
    data(&padded(value)).event(name)
}

/// The event of a response with random characters beside its piece of text, if it has one.
pub(crate) fn padded<T: Serialize>(event: &T) -> Value {
    // Wire types have string keys and no failing implementations.
    let mut event = serde_json::to_value(event).unwrap_or_default();
    if let Some(len) = event.get("delta").and_then(Value::as_str).map(str::len) {
        event["obfuscation"] = obfuscation(len).into();
    }
    event
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
