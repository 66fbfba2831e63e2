//! `/v1/responses` over a WebSocket: one request after the other on one connection, which keeps what was not to be
//! stored, so that the next request can go on from it.

use std::collections::VecDeque;

use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::Response as HttpResponse;
use serde::Serialize;

use super::run::Run;
use super::{check, plan, resolve};
use crate::access::Caller;
use crate::error::ApiError;
use crate::extract::parse;
use crate::sse;
use crate::state::AppState;
use crate::store::{History, Origin};
use crate::wire::responses::{
    ClientEvent, ErrorEvent, InputItem, LaneEvent, ResponseRequest, ResponseStatus, SequencedEvent,
};

/// Responses that a connection keeps; the oldest goes first.
const MAX_KEPT: usize = 8;
/// Requests that may wait on a connection.
const MAX_WAITING: usize = 64;

/// A connection.
struct Session {
    state: AppState,
    caller: Caller,
    socket: WebSocket,
    /// Messages that came while a response was under way.
    waiting: VecDeque<String>,
    /// What came before and in the latest responses that are not in the store, by their ids.
    kept: VecDeque<(String, History)>,
}

/// The client is gone.
struct Gone;

/// `GET /v1/responses`, which only makes sense as the start of a WebSocket.
pub(crate) async fn connect(
    State(state): State<AppState>,
    caller: Caller,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<HttpResponse, ApiError> {
    let upgrade = upgrade.map_err(|_| ApiError::MethodNotAllowed {
        method: "GET".to_owned(),
        path: "/v1/responses".to_owned(),
    })?;
    let max = state.config().max_body_bytes;
    Ok(upgrade.max_message_size(max).max_frame_size(max).on_upgrade(|socket| async move {
        let session = Session { state, caller, socket, waiting: VecDeque::new(), kept: VecDeque::new() };
        session.run().await;
    }))
}

impl Session {
    async fn run(mut self) {
        while let Some(text) = self.next_message().await {
            if self.answer(&text).await.is_err() {
                return;
            }
        }
    }

    async fn next_message(&mut self) -> Option<String> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Some(text);
            }
            match self.socket.recv().await? {
                Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {} // pings are answered by the library
            }
        }
    }

    /// Serves one request. A continuation that fails forgets what it continued.
    async fn answer(&mut self, text: &str) -> Result<(), Gone> {
        let client = parse::<ClientEvent>(text.as_bytes()).unwrap_or_default();
        let lane = client.stream_id.as_deref();
        let request = match request(text, &client) {
            Ok(request) => request,
            Err(error) => return self.send_error(&error, lane).await,
        };
        let previous = request.previous_response_id.clone();
        let kept = self.kept_history(&request);
        let silent = client.generate == Some(false);
        let run = match start(request, silent, kept, &self.caller, &self.state).await {
            Ok(run) => run,
            Err(error) => {
                self.forget(previous.as_deref());
                return self.send_error(&error, lane).await;
            }
        };
        let run = self.follow(run, lane).await?;
        if run.response().status == ResponseStatus::Failed {
            self.forget(previous.as_deref());
        } else if !run.response().store {
            self.keep(&run);
        }
        Ok(())
    }

    /// What the connection keeps of the response that the request continues.
    fn kept_history(&self, request: &ResponseRequest) -> Option<History> {
        let id = request.previous_response_id.as_ref().filter(|_| request.conversation.is_none())?;
        self.kept.iter().find(|(kept, _)| kept == id).map(|(_, history)| history.clone())
    }

    fn forget(&mut self, id: Option<&str>) {
        self.kept.retain(|(kept, _)| Some(kept.as_str()) != id);
    }

    fn keep(&mut self, run: &Run) {
        let response = run.response();
        let History { mut items, date, .. } = run.history().clone();
        items.extend_from_slice(run.input());
        items.extend(response.output.iter().map(InputItem::from).map(|item| InputItem {
            encrypted_content: None, // the chain of thought is kept open
            ..item
        }));
        self.kept.push_back((response.id.clone(), History { items, date, origin: Origin::Connection }));
        if self.kept.len() > MAX_KEPT {
            self.kept.pop_front();
        }
    }

    /// Sends the events of a run until it ends; messages that come meanwhile wait.
    async fn follow(&mut self, mut run: Run, lane: Option<&str>) -> Result<Run, Gone> {
        let pad = run.pads();
        for event in run.begin() {
            self.send_event(&event, lane, pad).await?;
        }
        loop {
            // Only waiting is given up for a message, never the writing of what has happened.
            let event = tokio::select! {
                biased;
                message = self.socket.recv() => {
                    self.note(message)?;
                    continue;
                }
                event = run.turn_event() => event,
            };
            let Some(event) = event else { return Ok(run) };
            for event in run.accept(event).await {
                self.send_event(&event, lane, pad).await?;
            }
        }
    }

    fn note(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), Gone> {
        match message {
            Some(Ok(Message::Text(text))) if self.waiting.len() < MAX_WAITING => {
                self.waiting.push_back(text.as_str().to_owned());
                Ok(())
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Binary(_))) => Ok(()),
            _ => Err(Gone),
        }
    }

    async fn send_event(
        &mut self,
        event: &SequencedEvent,
        stream_id: Option<&str>,
        pad: bool,
    ) -> Result<(), Gone> {
        let event = LaneEvent { event, stream_id };
        if pad { self.send(&sse::padded(&event)).await } else { self.send(&event).await }
    }

    async fn send_error(&mut self, error: &ApiError, stream_id: Option<&str>) -> Result<(), Gone> {
        let object = error.body().error;
        let event = ErrorEvent {
            kind: "error",
            status: error.status().as_u16(),
            code: object.code,
            message: object.message.clone(),
            param: object.param.clone(),
            sequence_number: 0,
            error: object,
            stream_id,
        };
        self.send(&event).await
    }

    async fn send<T: Serialize>(&mut self, value: &T) -> Result<(), Gone> {
        // Wire types have string keys and no failing implementations, so the fallback is never seen.
        let text = serde_json::to_string(value).unwrap_or_default();
        self.socket.send(Message::Text(text.into())).await.map_err(|_| Gone)
    }
}

/// Starts a request that goes on from what the connection or the store has.
async fn start(
    mut request: ResponseRequest,
    silent: bool,
    kept: Option<History>,
    caller: &Caller,
    state: &AppState,
) -> Result<Run, ApiError> {
    let (model, tenant) = (check(&request, state)?, caller.tenant());
    let history = match kept {
        Some(history) => history,
        None => resolve::history(&request, &tenant, state).await?,
    };
    let input = resolve::input(request.input.take(), &tenant, state).await?;
    let plan = plan(request, model, input, history, state)?;
    if silent { Run::prepare(plan, caller, state).await } else { Run::start(plan, caller, state).await }
}

/// The request in a message.
fn request(text: &str, client: &ClientEvent) -> Result<ResponseRequest, ApiError> {
    let request: ResponseRequest = parse(text.as_bytes())?;
    parse::<ClientEvent>(text.as_bytes())?;
    match client.kind.as_deref() {
        Some("response.create") => {}
        Some(other) => return Err(ApiError::invalid_value("type", other, &["response.create"])),
        None => return Err(ApiError::missing("type")),
    }
    if request.background == Some(true) {
        return Err(ApiError::unsupported("background", "A WebSocket has no background."));
    }
    Ok(request)
}
