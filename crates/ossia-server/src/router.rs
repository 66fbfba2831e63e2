//! Routes and layers.

use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer};
use tower_http::trace::{DefaultOnResponse, TraceLayer};
use tracing::Level;
use tracing::field::Empty;

use crate::api::{chat, completions, conversations, health, loads, models, responses, tokens};
use crate::error::ApiError;
use crate::state::AppState;
use crate::{access, api, extract, metrics, traces};

/// The whole API. Every answer has an `x-request-id`: the client's, if it sent one.
pub fn router(state: AppState) -> Router {
    let layers = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_response(DefaultOnResponse::new().level(Level::INFO)),
        )
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(from_fn_with_state(state.traces().clone(), traces::trace))
        .layer(from_fn_with_state(state.metrics().clone(), metrics::layer::count))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(extract::bound_head))
        .layer(from_fn_with_state(state.clone(), access::layer::identify));
    let cors = cors(&state.config().cors_origins);
    let routes = Router::new()
        .route("/health", get(health::health))
        .route("/metrics", get(api::metrics::metrics))
        .route("/v1/loads", get(loads::loads))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/chat/completions", get(chat::stored::list).post(chat::create))
        .route("/v1/chat/completions/render", post(tokens::render_chat))
        .route(
            "/v1/chat/completions/{id}",
            get(chat::stored::retrieve).post(chat::stored::update).delete(chat::stored::delete),
        )
        .route("/v1/chat/completions/{id}/messages", get(chat::stored::messages))
        .route("/v1/completions", post(completions::create))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/v1/conversations", post(conversations::create))
        .route(
            "/v1/conversations/{id}",
            get(conversations::retrieve).post(conversations::update).delete(conversations::delete),
        )
        .route(
            "/v1/conversations/{id}/items",
            get(conversations::list_items).post(conversations::create_items),
        )
        .route(
            "/v1/conversations/{id}/items/{item}",
            get(conversations::retrieve_item).delete(conversations::delete_item),
        )
        .route("/v1/responses", get(responses::socket::connect).post(responses::create))
        .route("/v1/responses/compact", post(responses::compact::compact))
        .route("/v1/responses/input_tokens", post(responses::tokens::count))
        .route("/v1/responses/{id}", get(responses::stored::retrieve).delete(responses::stored::delete))
        .route("/v1/responses/{id}/cancel", post(responses::stored::cancel))
        .route("/v1/responses/{id}/input_items", get(responses::stored::input_items))
        .fallback(unknown_url)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(layers)
        .with_state(state);
    // Outside of all others: the question whether a page may ask carries no key.
    match cors {
        Some(cors) => routes.layer(cors),
        None => routes,
    }
}

/// Leave for the web pages of these origins to read answers; `None` for none, which is the browser's own rule.
fn cors(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let allowed = match origins.iter().any(|origin| origin == "*") {
        true => AllowOrigin::any(),
        false => AllowOrigin::list(origins.iter().filter_map(|origin| origin.parse().ok())),
    };
    let layer =
        CorsLayer::new().allow_origin(allowed).allow_methods(Any).allow_headers(Any).expose_headers(Any);
    Some(layer.max_age(Duration::from_secs(3600)))
}

fn span(request: &Request) -> tracing::Span {
    let id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    let (method, path) = (request.method(), request.uri().path());
    tracing::info_span!("request", %method, path, id, key = Empty, trace = Empty)
}

async fn unknown_url(request: Request) -> ApiError {
    ApiError::UnknownUrl { method: request.method().to_string(), path: request.uri().path().to_owned() }
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::MethodNotAllowed { method: request.method().to_string(), path: request.uri().path().to_owned() }
}

fn panicked(panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    tracing::error!(message, "a handler panicked");
    ApiError::Internal { reason: "a handler panicked".to_owned() }.into_response()
}
