//! Messages of a WebSocket on `/v1/responses`.

use serde::{Deserialize, Serialize};

use super::SequencedEvent;
use crate::wire::error::ErrorObject;

/// What a message of the client says besides the fields of a response request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ClientEvent {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The lane whose name the answer's events carry.
    pub stream_id: Option<String>,
    /// `false`: only prepare for the next request.
    pub generate: Option<bool>,
}

/// An event of a response with its lane.
#[derive(Debug, Clone, Serialize)]
pub struct LaneEvent<'a> {
    #[serde(flatten)]
    pub event: &'a SequencedEvent,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<&'a str>,
}

/// A request that could not be served: in the shape that the document gives the event `error`, and in that of HTTP.
#[derive(Debug, Clone, Serialize)]
pub struct ErrorEvent<'a> {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: u16,
    pub code: Option<&'static str>,
    pub message: String,
    pub param: Option<String>,
    pub sequence_number: u64,
    pub error: ErrorObject,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_id: Option<&'a str>,
}
