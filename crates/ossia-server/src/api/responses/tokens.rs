//! `POST /v1/responses/input_tokens`: how long the prompt of a request would be.

use axum::Json;
use axum::extract::State;

use super::prepare;
use crate::error::ApiError;
use crate::extract::ApiJson;
use crate::state::AppState;
use crate::store::Tenant;
use crate::turn::prompt_of;
use crate::wire::poly::TextOrList;
use crate::wire::responses::{InputTokens, ResponseRequest};

/// Counts, without generating anything. A request without input counts what it says besides.
pub(crate) async fn count(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiJson(mut request): ApiJson<ResponseRequest>,
) -> Result<Json<InputTokens>, ApiError> {
    request.input.get_or_insert_with(|| TextOrList::List(Vec::new()));
    let plan = prepare(request, &tenant, &state).await?;
    let input_tokens = prompt_of(&state, &plan.turn)?.len();
    Ok(Json(InputTokens { object: "response.input_tokens", input_tokens }))
}
