//! The layer that counts requests.

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;

use super::Metrics;
use crate::access::Caller;

/// Counts a request by tenant, route and status. The tenant is known once the request has been let in.
pub(crate) async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    let tenant = response.extensions().get::<Caller>().map(Caller::tenant);
    let tenant = tenant.as_ref().map_or("", |tenant| &tenant.0);
    metrics.note_request(tenant, route.as_deref().unwrap_or("other"), response.status().as_u16());
    response
}
