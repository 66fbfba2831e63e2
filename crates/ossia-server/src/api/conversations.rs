//! `/v1/conversations`: made, read, changed and deleted by clients, grown by responses.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use super::objects;
use super::page::{Order, finish, listed, page};
use super::responses::open;
use crate::clock;
use crate::error::ApiError;
use crate::extract::{ApiJson, ApiPath, ApiPathPair, ApiQuery};
use crate::ids::new_id;
use crate::prepare::check;
use crate::prepare::items::check_items;
use crate::state::AppState;
use crate::store::{ObjectKind, Tenant};
use crate::wire::conversations::{Conversation, CreateConversation, CreateItems, Deleted, UpdateMetadata};
use crate::wire::page::{Page, PageQuery};
use crate::wire::responses::InputItem;

const KIND: ObjectKind = ObjectKind::Conversation;
/// Most items of one request, as in OpenAI's document.
const MAX_ITEMS: usize = 20;

/// `POST /v1/conversations`. The date in the system message of all its turns is today's.
pub(crate) async fn create(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiJson(request): ApiJson<CreateConversation>,
) -> Result<Json<Value>, ApiError> {
    check::metadata(request.metadata.as_ref())?;
    let items = settled(request.items.unwrap_or_default(), &tenant, &state)?;
    let conversation = Conversation {
        id: new_id("conv_"),
        object: "conversation",
        created_at: clock::unix_now(),
        metadata: request.metadata.unwrap_or_default(),
    };
    let body = json(&conversation)?;
    if state.store().insert_conversation(&tenant, &body, items, &state.current_date()).await? {
        return Ok(Json(body));
    }
    let message = "This server stores nothing, so that it cannot keep a conversation.".to_owned();
    Err(ApiError::Invalid { param: None, code: Some("unsupported_value"), message })
}

/// `GET /v1/conversations/{id}`.
pub(crate) async fn retrieve(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
) -> Result<Json<Value>, ApiError> {
    objects::find(KIND, &state, &tenant, &id).await.map(Json)
}

/// `POST /v1/conversations/{id}`: replaces the metadata.
pub(crate) async fn update(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
    ApiJson(request): ApiJson<UpdateMetadata>,
) -> Result<Json<Value>, ApiError> {
    objects::update(KIND, &state, &tenant, &id, request).await
}

/// `DELETE /v1/conversations/{id}`, its items included.
pub(crate) async fn delete(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
) -> Result<Json<Deleted>, ApiError> {
    objects::delete(KIND, &state, &tenant, id).await
}

/// `POST /v1/conversations/{id}/items`: up to 20 at the end.
pub(crate) async fn create_items(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
    ApiJson(request): ApiJson<CreateItems>,
) -> Result<Json<Page>, ApiError> {
    let items = request.items.ok_or_else(|| ApiError::missing("items"))?;
    let items = settled(items, &tenant, &state)?;
    if !state.store().add_items(&tenant, &id, &items).await? {
        return Err(objects::not_found(KIND, &id));
    }
    Ok(Json(finish(items.into_iter().map(listed).collect(), false)))
}

/// `GET /v1/conversations/{id}/items`: newest first unless `order=asc`.
pub(crate) async fn list_items(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Json<Page>, ApiError> {
    Ok(Json(page(items(&state, &tenant, &id).await?, &query, Order::Descending)?))
}

/// `GET /v1/conversations/{id}/items/{item}`.
pub(crate) async fn retrieve_item(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPathPair(id, item): ApiPathPair,
) -> Result<Json<Value>, ApiError> {
    let items = items(&state, &tenant, &id).await?;
    let found = items.into_iter().find(|found| found["id"] == *item);
    found.map(Json).ok_or(ApiError::NotFound { what: "Item", id: item })
}

/// `DELETE /v1/conversations/{id}/items/{item}`; answers with the conversation.
pub(crate) async fn delete_item(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPathPair(id, item): ApiPathPair,
) -> Result<Json<Value>, ApiError> {
    let conversation = objects::find(KIND, &state, &tenant, &id).await?;
    if state.store().delete_item(&tenant, &id, &item).await? {
        return Ok(Json(conversation));
    }
    Err(ApiError::NotFound { what: "Item", id: item })
}

/// Items as they are kept, checked as if they were the input of a response.
fn settled(mut items: Vec<InputItem>, tenant: &Tenant, state: &AppState) -> Result<Vec<Value>, ApiError> {
    if items.len() > MAX_ITEMS {
        let found = items.len();
        let message = format!(
            "Invalid 'items': array too long. Expected at most {MAX_ITEMS} entries, but got {found}."
        );
        return Err(ApiError::invalid("items", "array_above_max_length", message));
    }
    for (i, item) in items.iter_mut().enumerate() {
        open(&format!("items[{i}]"), item, tenant, state)?;
    }
    check_items("items", &items)?;
    items.into_iter().map(|item| json(&item.settled())).collect()
}

fn json<T: serde::Serialize>(value: &T) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(|error| ApiError::Internal { reason: error.to_string() })
}

async fn items(state: &AppState, tenant: &Tenant, id: &str) -> Result<Vec<Value>, ApiError> {
    let items = objects::items(KIND, state, tenant, id).await?;
    Ok(items.into_iter().map(listed).collect())
}
