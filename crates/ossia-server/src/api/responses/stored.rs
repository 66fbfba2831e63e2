//! Stored responses: retrieve, follow, cancel, delete, list the input.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response as HttpResponse};
use serde_json::Value;

use super::background::follow;
use crate::api::objects;
use crate::api::page::{Order, listed, page};
use crate::error::ApiError;
use crate::extract::{ApiPath, ApiQuery};
use crate::sse;
use crate::state::AppState;
use crate::store::{EventLog, LoggedEvent, ObjectKind, StoredResponse, Tenant};
use crate::wire::page::{Page, PageQuery};
use crate::wire::responses::{DeletedResponse, RetrieveQuery};

/// How often a response that another server works on is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// `GET /v1/responses/{id}`: the response, or its events from `starting_after` on.
pub(crate) async fn retrieve(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
    ApiQuery(query): ApiQuery<RetrieveQuery>,
) -> Result<HttpResponse, ApiError> {
    // A response that ends now is in the store before it is off the list.
    let live = state.live().get(&tenant, &id);
    let stored = find(&state, &tenant, &id).await?;
    if query.stream != Some(true) {
        return Ok(Json(stored.body).into_response());
    }
    let first = query.starting_after.map_or(0, |number| number.saturating_add(1));
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    let pad = query.include_obfuscation == Some(true);
    if let Some(live) = live {
        return Ok(sse::response(state.config(), follow(live, first, pad)));
    }
    let events = ended(state.clone(), tenant, id, stored);
    let stream = async_stream::stream! {
        for LoggedEvent { name, data } in events.await.into_iter().skip(first) {
            yield Ok::<_, Infallible>(sse::named(&name, &data, pad));
        }
        yield Ok(sse::done());
    };
    Ok(sse::response(state.config(), stream))
}

/// The events of a response that does not run here, as soon as it has ended.
async fn ended(state: AppState, tenant: Tenant, id: String, mut stored: StoredResponse) -> Vec<LoggedEvent> {
    while stored.running {
        tokio::time::sleep(POLL_INTERVAL).await;
        match state.store().response(&tenant, &id).await {
            Ok(Some(found)) => stored = found,
            Ok(None) | Err(_) => break,
        }
    }
    EventLog::unpack(&stored.events, &stored.body)
}

/// `POST /v1/responses/{id}/cancel`. Cancelling what has ended changes nothing.
pub(crate) async fn cancel(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
) -> Result<Json<Value>, ApiError> {
    let live = state.live().get(&tenant, &id);
    let stored = find(&state, &tenant, &id).await?;
    if stored.body["background"] != true {
        let message = "Only responses created with 'background' set to true can be cancelled.";
        return Err(ApiError::invalid("response_id", "invalid_value", message));
    }
    match live {
        Some(live) => live.cancel().await,
        None if stored.running => state.store().cancel_response(&tenant, &id, stored.body).await?,
        None => return Ok(Json(stored.body)),
    }
    Ok(Json(find(&state, &tenant, &id).await?.body))
}

/// `DELETE /v1/responses/{id}`; one that runs is cancelled.
pub(crate) async fn delete(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
) -> Result<Json<DeletedResponse>, ApiError> {
    let live = state.live().get(&tenant, &id);
    if !state.store().delete_response(&tenant, &id).await? {
        return Err(not_found(&id));
    }
    if let Some(live) = live {
        live.cancel().await;
    }
    Ok(Json(DeletedResponse { id, object: "response", deleted: true }))
}

/// `GET /v1/responses/{id}/input_items`: newest first unless `order=asc`.
pub(crate) async fn input_items(
    State(state): State<AppState>,
    tenant: Tenant,
    ApiPath(id): ApiPath,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Result<Json<Page>, ApiError> {
    let items = objects::items(ObjectKind::Response, &state, &tenant, &id).await?;
    Ok(Json(page(items.into_iter().map(listed).collect(), &query, Order::Descending)?))
}

async fn find(state: &AppState, tenant: &Tenant, id: &str) -> Result<StoredResponse, ApiError> {
    state.store().response(tenant, id).await?.ok_or_else(|| not_found(id))
}

fn not_found(id: &str) -> ApiError {
    objects::not_found(ObjectKind::Response, id)
}
