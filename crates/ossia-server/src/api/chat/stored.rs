//! Stored chat completions: kept when the request says so, listed, read, changed and deleted.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value};

use crate::api::objects;
use crate::api::page::{Order, finish, limit, order, page};
use crate::error::ApiError;
use crate::extract::{ApiJson, ApiPath, ApiQuery};
use crate::ids::new_id;
use crate::state::AppState;
use crate::store::{CompletionFilter, ObjectKind, Store, Tenant};
use crate::wire::chat::{ChatCompletion, ChatRequest, StoredMessage};
use crate::wire::conversations::{Deleted, UpdateMetadata};
use crate::wire::page::{Page, PageQuery};

const KIND: ObjectKind = ObjectKind::Completion;

/// Stores a completion when it is complete.
pub(crate) struct Keeper {
    store: Store,
    tenant: Tenant,
    messages: Vec<StoredMessage>,
}

impl Keeper {
    /// A keeper for a request that asks for it.
    pub(crate) fn new(request: &ChatRequest, tenant: &Tenant, state: &AppState) -> Option<Self> {
        (request.store == Some(true)).then(|| {
            let messages = request.messages.iter().flatten();
            Self {
                store: state.store().clone(),
                tenant: tenant.clone(),
                messages: messages.map(|message| StoredMessage::new(new_id("msg_"), message)).collect(),
            }
        })
    }

    /// Stores the completion.
    pub(crate) async fn keep(self, completion: &ChatCompletion) -> Result<(), ApiError> {
        let json = |error: serde_json::Error| ApiError::Internal { reason: error.to_string() };
        let mut body = serde_json::to_value(completion).map_err(json)?;
        if body["metadata"].is_null() {
            body["metadata"] = Value::Object(Map::new());
        }
        let messages = self.messages.iter().map(serde_json::to_value).collect::<Result<_, _>>();
        Ok(self.store.insert_completion(&self.tenant, &body, messages.map_err(json)?).await?)
    }
}

/// `GET /v1/chat/completions`: oldest first unless `order=desc`.
pub(crate) async fn list(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiQuery(pairs): ApiQuery<Vec<(String, String)>>,
) -> Result<Json<Page>, ApiError> {
    let (query, mut filter) = list_query(pairs)?;
    let limit = limit(&query)?;
    filter.descending = order(&query, Order::Ascending)? == Order::Descending;
    let mut found = state.store().completions(&tenant, &filter, limit + 1).await?;
    let has_more = found.len() > limit;
    found.truncate(limit);
    Ok(Json(finish(found, has_more)))
}

/// `metadata[key]=value` is a filter, and so is `model`.
fn list_query(pairs: Vec<(String, String)>) -> Result<(PageQuery, CompletionFilter), ApiError> {
    let (mut query, mut filter) = (PageQuery::default(), CompletionFilter::default());
    for (name, value) in pairs {
        let key = name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']'));
        match (name.as_str(), key) {
            (_, Some(key)) => filter.metadata.push((key.to_owned(), value)),
            ("model", _) => filter.model = Some(value),
            ("after", _) => filter.after = Some(value),
            ("order", _) => query.order = Some(value),
            ("limit", _) => {
                query.limit = Some(value.parse().map_err(|_| {
                    let message =
                        format!("Invalid type for 'limit': expected an integer, but got '{value}'.");
                    ApiError::invalid("limit", "invalid_type", message)
                })?);
            }
            _ => {}
        }
    }
    Ok((query, filter))
}

/// `GET /v1/chat/completions/{id}`.
pub(crate) async fn retrieve(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
) -> Result<Json<Value>, ApiError> {
    objects::find(KIND, &state, &tenant, &id).await.map(Json)
}

/// `POST /v1/chat/completions/{id}`: replaces the metadata.
pub(crate) async fn update(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
    ApiJson(request): ApiJson<UpdateMetadata>,
) -> Result<Json<Value>, ApiError> {
    objects::update(KIND, &state, &tenant, &id, request).await
}

/// `DELETE /v1/chat/completions/{id}`.
pub(crate) async fn delete(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
) -> Result<Json<Deleted>, ApiError> {
    objects::delete(KIND, &state, &tenant, id).await
}

/// `GET /v1/chat/completions/{id}/messages`: the request's messages, in their order unless `order=desc`.
pub(crate) async fn messages(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Json<Page>, ApiError> {
    let messages = objects::items(KIND, &state, &tenant, &id).await?;
    Ok(Json(page(messages, &query, Order::Ascending)?))
}
