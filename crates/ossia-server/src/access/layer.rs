//! The layer that finds out who sends a request.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Caller;
use super::caller::RequestName;
use crate::error::ApiError;
use crate::state::AppState;
use crate::traces::RequestSpan;
use crate::wire::audit::AuditRecord;

/// Paths that tell nothing about anybody, for probes.
const OPEN: [&str; 3] = ["/health", "/ready", "/version"];

/// Refuses who may not come in; gives the others their tenant, and tells them what is left of their limits.
pub(crate) async fn identify(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if OPEN.contains(&path) || (path == "/metrics" && state.config().public_metrics) {
        return next.run(request).await;
    }
    let name = name(&request);
    let caller = match state.access().identify(request.headers()) {
        Ok(caller) => caller.with_request(name),
        Err(error) => return refused(&state, &Caller::anybody().with_request(name), error),
    };
    tracing::Span::current().record("key", caller.key_id());
    request.extensions_mut().insert(caller.tenant());
    request.extensions_mut().insert(caller.clone());
    let mut response = next.run(request).await;
    caller.write_limits(response.headers_mut());
    if response.status().is_client_error() || response.status().is_server_error() {
        note_refusal(&state, &caller, response.status().as_u16());
    }
    response.extensions_mut().insert(caller);
    response
}

fn name(request: &Request) -> RequestName {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let path = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str);
    let span = request.extensions().get::<RequestSpan>().cloned().unwrap_or_default();
    RequestName { id: id.to_owned(), route: format!("{} {path}", request.method()), span }
}

fn refused(state: &AppState, caller: &Caller, error: ApiError) -> Response {
    let response = error.into_response();
    note_refusal(state, caller, response.status().as_u16());
    response
}

fn note_refusal(state: &AppState, caller: &Caller, status: u16) {
    let tenant = caller.tenant();
    state.audit().write(AuditRecord {
        request_id: caller.request_id(),
        key: caller.key_id(),
        tenant: &tenant.0,
        request: caller.request(),
        status: Some(status),
        outcome: vec!["refused"],
        ..AuditRecord::default()
    });
}
