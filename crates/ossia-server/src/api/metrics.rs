//! `/metrics`.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use crate::access::Caller;
use crate::error::ApiError;
use crate::metrics;
use crate::state::AppState;

/// All metrics, for Prometheus. They tell of all tenants, so that with keys it takes one of an administrator, unless the
/// server is configured otherwise.
pub(crate) async fn metrics(State(state): State<AppState>, caller: Caller) -> Result<Response, ApiError> {
    if !state.config().public_metrics {
        caller.must_be_admin()?;
    }
    let text = state.metrics().encode().map_err(|error| ApiError::Internal { reason: error.to_string() })?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}
