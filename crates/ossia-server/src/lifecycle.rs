//! From loading to draining: what the server answers while its model is not there yet, and while it goes away.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use tokio::sync::watch;
use tower::{ServiceBuilder, ServiceExt};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};

use crate::error::ApiError;
use crate::router::router;
use crate::state::AppState;
use crate::wire::model::{Health, Version};

/// How often a draining server looks whether it is idle.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It listens, the model is not there yet.
    Loading,
    /// It serves.
    Ready,
    /// It finishes what it has begun and begins nothing.
    Draining,
}

/// The life of a server. Clones are the same life.
#[derive(Clone)]
pub struct Lifecycle(Arc<Life>);

struct Life {
    phase: watch::Sender<Phase>,
    app: OnceLock<(Router, AppState)>,
    /// Requests whose answer is not yet out.
    num_open: AtomicUsize,
}

impl Default for Lifecycle {
    fn default() -> Self {
        let (phase, app) = (watch::Sender::new(Phase::Loading), OnceLock::new());
        Self(Arc::new(Life { phase, app, num_open: AtomicUsize::new(0) }))
    }
}

impl Lifecycle {
    /// The API from the first moment on: before [`Lifecycle::begin`] it says that the model is loading, after
    /// [`Lifecycle::drain`] that it takes no more.
    pub fn router(&self) -> Router {
        let layers = ServiceBuilder::new()
            .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
            .layer(PropagateRequestIdLayer::x_request_id());
        Router::new().fallback(any(answer)).layer(layers).with_state(self.clone())
    }

    /// The model is there. A life begins once.
    pub fn begin(&self, state: AppState) {
        if self.0.app.set((router(state.clone()), state)).is_ok() {
            self.0.phase.send_if_modified(|phase| {
                let begins = *phase == Phase::Loading;
                *phase = if begins { Phase::Ready } else { *phase };
                begins
            });
        }
    }

    /// From now on nothing is begun.
    pub fn drain(&self) {
        self.0.phase.send_replace(Phase::Draining);
        if let Some((_, state)) = self.0.app.get() {
            state.stop_admitting(); // a WebSocket that is open may ask for more
        }
    }

    /// Where the server is.
    pub fn phase(&self) -> Phase {
        *self.0.phase.borrow()
    }

    /// Resolves when nothing is under way any more: no answer, no response in the background.
    pub async fn idle(&self) {
        let is_busy = || {
            let stats = self.0.app.get().map(|(_, state)| state.engine().stats()).unwrap_or_default();
            self.num_open() > 0 || stats.num_running + stats.num_waiting > 0
        };
        while is_busy() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Requests whose answer is not yet out.
    pub fn num_open(&self) -> usize {
        self.0.num_open.load(Ordering::Relaxed)
    }

    fn is_ready(&self) -> Result<(), ApiError> {
        match self.phase() {
            Phase::Loading => {
                Err(ApiError::Unavailable { reason: "the model is still being loaded".to_owned() })
            }
            Phase::Draining => {
                Err(ApiError::Unavailable { reason: "the server is shutting down".to_owned() })
            }
            Phase::Ready => Ok(()),
        }
    }
}

/// Paths that a draining server still serves: they are how others watch it go.
const WATCHED: [&str; 3] = ["/health", "/metrics", "/v1/loads"];

async fn answer(State(life): State<Lifecycle>, request: Request) -> Response {
    let path = request.uri().path();
    match path {
        "/ready" => return ready(&life),
        "/version" => return Json(Version { version: env!("CARGO_PKG_VERSION") }).into_response(),
        _ => {}
    }
    let is_watched = WATCHED.contains(&path);
    match (life.0.app.get(), life.is_ready()) {
        (Some((app, _)), Ok(())) => counted(app.clone(), request, life.clone()).await,
        (Some((app, _)), _) if is_watched => app.clone().oneshot(request).await.into_response(),
        (None, _) if path == "/health" => Json(Health { status: "loading" }).into_response(),
        (_, Err(error)) => {
            let mut response = error.into_response();
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
        (None, Ok(())) => StatusCode::INTERNAL_SERVER_ERROR.into_response(), // it is ready once it has its routes
    }
}

fn ready(life: &Lifecycle) -> Response {
    match life.is_ready() {
        Ok(()) => Json(Health { status: "ready" }).into_response(),
        Err(error) => error.into_response(),
    }
}

/// Counts the request until its whole answer is out, or given up.
async fn counted(app: Router, request: Request, life: Lifecycle) -> Response {
    life.0.num_open.fetch_add(1, Ordering::Relaxed);
    let open = Open(life);
    let response = app.oneshot(request).await.into_response();
    response.map(|body| Body::new(CountedBody { body, _open: open }))
}

/// A request under way.
struct Open(Lifecycle);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.num_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that is under way as long as it exists.
struct CountedBody {
    body: Body,
    _open: Open,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
