//! What the routes of conversations and of stored completions have in common.

use axum::Json;
use serde_json::Value;

use crate::error::ApiError;
use crate::prepare::check;
use crate::state::AppState;
use crate::store::{ObjectKind, Tenant};
use crate::wire::conversations::{Deleted, UpdateMetadata};

/// The object of this id.
///
/// # Errors
/// 404 if there is none.
pub(crate) async fn find(
    kind: ObjectKind,
    state: &AppState,
    tenant: &Tenant,
    id: &str,
) -> Result<Value, ApiError> {
    state.store().object(kind, tenant, id).await?.ok_or_else(|| not_found(kind, id))
}

/// The items of an object in order.
///
/// # Errors
/// 404 if there is none.
pub(crate) async fn items(
    kind: ObjectKind,
    state: &AppState,
    tenant: &Tenant,
    id: &str,
) -> Result<Vec<Value>, ApiError> {
    state.store().items(kind, tenant, id).await?.ok_or_else(|| not_found(kind, id))
}

/// Replaces the metadata and answers with the object.
///
/// # Errors
/// 400 if the metadata is absent or too large, 404 if there is no such object.
pub(crate) async fn update(
    kind: ObjectKind,
    state: &AppState,
    tenant: &Tenant,
    id: &str,
    request: UpdateMetadata,
) -> Result<Json<Value>, ApiError> {
    check::metadata(request.metadata.as_ref())?;
    let metadata = request.metadata.ok_or_else(|| ApiError::missing("metadata"))?;
    let updated = state.store().set_metadata(kind, tenant, id, metadata).await?;
    updated.map(Json).ok_or_else(|| not_found(kind, id))
}

/// Deletes the object with its items.
///
/// # Errors
/// 404 if there is none.
pub(crate) async fn delete(
    kind: ObjectKind,
    state: &AppState,
    tenant: &Tenant,
    id: String,
) -> Result<Json<Deleted>, ApiError> {
    if !state.store().delete_object(kind, tenant, &id).await? {
        return Err(not_found(kind, &id));
    }
    let object = match kind {
        ObjectKind::Response => "response",
        ObjectKind::Conversation => "conversation.deleted",
        ObjectKind::Completion => "chat.completion.deleted",
    };
    Ok(Json(Deleted { id, object, deleted: true }))
}

/// The 404 of an object.
pub(crate) fn not_found(kind: ObjectKind, id: &str) -> ApiError {
    let what = match kind {
        ObjectKind::Response => "Response",
        ObjectKind::Conversation => "Conversation",
        ObjectKind::Completion => "Chat completion",
    };
    ApiError::NotFound { what, id: id.to_owned() }
}
