//! Stored responses: retrieve, follow, cancel, delete, list the input.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response as HttpResponse};
use futures::Stream;
use serde_json::Value;
use crate::api::objects;

use super::background::follow;
use crate::api::page::{Order, listed, page};
use crate::error::ApiError;
use crate::extract::{ApiPath, ApiQuery};
use crate::prepare::check;
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
    check::off("include_obfuscation", query.include_obfuscation, "Streams are not padded.")?;
    // A response that ends now is in the store before it is off the list.
    let live = state.live().get(&tenant, &id);
    let stored = find(&state, &tenant, &id).await?;
    if query.stream != Some(true) {
        return Ok(Json(stored.body).into_response());
    }
    let first = query.starting_after.map_or(0, |number| number.saturating_add(1));
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    match live {
        Some(live) => Ok(sse::response(state.config(), follow(live, first))),
        None => Ok(sse::response(state.config(), replay(state.clone(), tenant, id, stored, first))),
    }
}

/// The events of a response that does not run here, as soon as it has ended.
fn replay(
    state: AppState,
    tenant: Tenant,
    id: String,
    mut stored: StoredResponse,
    first: usize,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    async_stream::stream! {
        while stored.running {
            tokio::time::sleep(POLL_INTERVAL).await;
            match state.store().response(&tenant, &id).await {
                Ok(Some(found)) => stored = found,
                Ok(None) | Err(_) => break,
            }
        }
        for LoggedEvent { name, data } in EventLog::unpack(&stored.events, &stored.body).into_iter().skip(first) {
            yield Ok(sse::named(&name, &data));
        }
        yield Ok(sse::done());
    }
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
