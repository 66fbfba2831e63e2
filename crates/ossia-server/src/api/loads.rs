//! `/v1/loads`.

use axum::Json;
use axum::extract::State;

use crate::state::AppState;
use crate::wire::loads::Loads;

/// The engine's figures after its last step.
pub(crate) async fn loads(State(state): State<AppState>) -> Json<Loads> {
    Json(state.engine().stats().into())
}
