//! `/health`.

use axum::Json;
use axum::extract::State;

use crate::error::ApiError;
use crate::state::AppState;
use crate::wire::model::Health;

/// 200 while the engine takes requests, 503 after.
pub(crate) async fn health(State(state): State<AppState>) -> Result<Json<Health>, ApiError> {
    if state.engine().is_alive() {
        return Ok(Json(Health { status: "ok" }));
    }
    Err(ApiError::Unavailable { reason: "the engine has shut down".to_owned() })
}
