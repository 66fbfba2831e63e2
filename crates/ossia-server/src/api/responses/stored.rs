//! Stored responses: retrieve, delete, list the input.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;

use crate::error::ApiError;
use crate::extract::{ApiPath, ApiQuery};
use crate::state::AppState;
use crate::store::StoredResponse;
use crate::wire::responses::{
    DeletedResponse, InputItem, InputItemList, InputItemsQuery, Response, RetrieveQuery,
};

/// `GET /v1/responses/{id}`.
pub(crate) async fn retrieve(
    State(state): State<AppState>,
    ApiPath(id): ApiPath,
    ApiQuery(query): ApiQuery<RetrieveQuery>,
) -> Result<Json<Response>, ApiError> {
    if query.stream == Some(true) {
        return Err(ApiError::unsupported("stream", "A stored response cannot be streamed again yet."));
    }
    Ok(Json(find(&state, &id)?.response.clone()))
}

/// `DELETE /v1/responses/{id}`.
pub(crate) async fn delete(
    State(state): State<AppState>,
    ApiPath(id): ApiPath,
) -> Result<Json<DeletedResponse>, ApiError> {
    if state.store().delete(&id) {
        return Ok(Json(DeletedResponse { id, object: "response", deleted: true }));
    }
    Err(not_found(&id))
}

/// `GET /v1/responses/{id}/input_items`: newest first unless `order=asc`, 20 unless `limit` says otherwise.
pub(crate) async fn input_items(
    State(state): State<AppState>,
    ApiPath(id): ApiPath,
    ApiQuery(query): ApiQuery<InputItemsQuery>,
) -> Result<Json<InputItemList>, ApiError> {
    let stored = find(&state, &id)?;
    let limit = query.limit.unwrap_or(20);
    if !(1..=100).contains(&limit) {
        let message = format!("Invalid 'limit': expected 1 to 100, but got {limit} instead.");
        return Err(ApiError::invalid("limit", "invalid_value", message));
    }
    let mut items: Vec<&InputItem> = stored.input.iter().collect();
    match query.order.as_deref() {
        Some("asc") => {}
        None | Some("desc") => items.reverse(),
        Some(other) => return Err(ApiError::invalid_value("order", other, &["asc", "desc"])),
    }
    Ok(Json(page(&items, query.after.as_deref(), limit)))
}

/// The items after the one named, or from the first on.
fn page(items: &[&InputItem], after: Option<&str>, limit: usize) -> InputItemList {
    let position = after.and_then(|after| items.iter().position(|item| item.id.as_deref() == Some(after)));
    let rest = &items[position.map_or(0, |position| position + 1)..];
    let data: Vec<InputItem> = rest.iter().take(limit).map(|item| (*item).clone()).collect();
    InputItemList {
        object: "list",
        first_id: data.first().and_then(|item| item.id.clone()),
        last_id: data.last().and_then(|item| item.id.clone()),
        has_more: rest.len() > data.len(),
        data,
    }
}

fn find(state: &AppState, id: &str) -> Result<Arc<StoredResponse>, ApiError> {
    state.store().get(id).ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> ApiError {
    ApiError::NotFound { what: "Response", id: id.to_owned() }
}
