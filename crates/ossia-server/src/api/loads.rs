//! `/v1/loads`.

use axum::Json;
use axum::extract::State;

use crate::access::Caller;
use crate::error::ApiError;
use crate::state::AppState;
use crate::wire::loads::Loads;

/// The engine's figures after its last step.
pub(crate) async fn loads(State(state): State<AppState>, caller: Caller) -> Result<Json<Loads>, ApiError> {
    caller.must_be_admin()?;
    Ok(Json(state.engine().stats().into()))
}
