//! The one error type of the HTTP layer, and the one place that turns it into an HTTP answer.

use std::time::Duration;

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::wire::error::{ErrorBody, ErrorObject};

/// Everything that an HTTP request can be answered with instead of success. Output of the model is never one.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApiError {
    /// A field is missing, has the wrong type or value, or is not supported: 400.
    #[error("{message}")]
    Invalid {
        /// Path of the field, such as `messages[0].content`.
        param: Option<String>,
        /// OpenAI's word for the kind of fault.
        code: Option<&'static str>,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The prompt does not fit into the model's context: 400.
    #[error(
        "This model's maximum context length is {max} tokens. However, your {param} resulted in {len} tokens. Please reduce the length of the {param}."
    )]
    ContextLength {
        /// The field that holds the prompt.
        param: &'static str,
        /// Tokens of the prompt.
        len: usize,
        /// Longest prompt that could be answered.
        max: usize,
    },
    /// No model of this name is served: 404.
    #[error("The model `{model}` does not exist. Served here: {served}.")]
    UnknownModel {
        /// What was asked for.
        model: String,
        /// Names that exist.
        served: String,
    },
    /// Nothing of this id is stored: 404, or 400 where a field of the request names it.
    #[error("{what} with id '{id}' not found.")]
    NotFound {
        /// Kind of object.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// No such route: 404.
    #[error("Invalid URL ({method} {path})")]
    UnknownUrl {
        /// Method of the request.
        method: String,
        /// Path of the request.
        path: String,
    },
    /// The route exists for other methods: 405.
    #[error("Not allowed to {method} on {path}.")]
    MethodNotAllowed {
        /// Method of the request.
        method: String,
        /// Path of the request.
        path: String,
    },
    /// The body is not declared as JSON: 415.
    #[error("Unsupported content type: '{found}'. This API method only accepts 'application/json' requests.")]
    UnsupportedMediaType {
        /// The content type that came.
        found: String,
    },
    /// The body is longer than the server accepts: 413.
    #[error("The request body is larger than the limit of {limit_bytes} bytes.")]
    BodyTooLarge {
        /// Longest accepted body.
        limit_bytes: usize,
    },
    /// URL and headers together are longer than the server accepts: 431.
    #[error("The request's URL and headers have {len} bytes, more than the limit of {limit_bytes}.")]
    HeadTooLarge {
        /// What came.
        len: usize,
        /// Longest accepted head.
        limit_bytes: usize,
    },
    /// The body did not arrive whole or in time: 408.
    #[error("The request body did not arrive: {reason}.")]
    BodyUnfinished {
        /// What came in between.
        reason: String,
    },
    /// There has to be a key that is good, and there is none: 401.
    #[error("{message}")]
    Unauthorized {
        /// OpenAI's word for the kind of fault.
        code: Option<&'static str>,
        /// What is wrong with the key.
        message: String,
    },
    /// The key is not for this model: 403.
    #[error("This key may not use the model `{model}`.")]
    ModelForbidden {
        /// What was asked for.
        model: String,
    },
    /// The key is not for what concerns all tenants: 403.
    #[error("Only a key with `admin = true` may read this.")]
    AdminOnly,
    /// A limit of the key is reached: 429.
    #[error(transparent)]
    RateLimited(RateLimit),
    /// Too many requests wait already: 429.
    #[error("The server is at its limit of {max} waiting requests. Please retry later.")]
    QueueFull {
        /// Most requests that may wait.
        max: usize,
    },
    /// The engine did not take the request up in time: 503.
    #[error("The server did not get to this request within {limit_ms} ms. Please retry later.")]
    QueueTimeout {
        /// Longest wait.
        limit_ms: u128,
    },
    /// The engine is shutting down, or the store failed: 503.
    #[error("The server cannot take this request now: {reason}. Please retry later.")]
    Unavailable {
        /// What stands in the way.
        reason: String,
    },
    /// A fault of the server: 500.
    #[error("The server had an error while processing your request: {reason}")]
    Internal {
        /// What failed.
        reason: String,
    },
}

/// A limit that a key has reached.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("Rate limit reached: this key has {what}. Please try again in {:.1} s.", retry_after.as_secs_f64())]
pub struct RateLimit {
    /// OpenAI's word for what is counted: `requests` or `tokens`.
    pub kind: &'static str,
    /// The limit.
    pub what: String,
    /// When a request may be let in again.
    pub retry_after: Duration,
}

impl ApiError {
    /// A request without a key.
    pub(crate) fn no_key() -> Self {
        let message = "This server needs an API key in the header 'Authorization: Bearer KEY'.".to_owned();
        Self::Unauthorized { code: None, message }
    }

    /// A key that nobody made. It is not repeated: it may be one for another server.
    pub(crate) fn wrong_key() -> Self {
        let message = "Incorrect API key provided.".to_owned();
        Self::Unauthorized { code: Some("invalid_api_key"), message }
    }

    /// A key whose last day has passed.
    pub(crate) fn expired_key(id: &str) -> Self {
        let message = format!("The API key '{id}' has expired.");
        Self::Unauthorized { code: Some("invalid_api_key"), message }
    }

    /// A token that no provider of ours signed for us, or that has expired.
    pub(crate) fn wrong_token(reason: &str) -> Self {
        let message = format!("The bearer token cannot be accepted: {reason}.");
        Self::Unauthorized { code: Some("invalid_api_key"), message }
    }

    /// A fault of the field `param`.
    pub(crate) fn invalid(param: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid { param: Some(param.into()), code: Some(code), message: message.into() }
    }

    /// A value of `param` that exists at OpenAI but not here; `reason` says why, as a sentence.
    pub(crate) fn unsupported(param: impl Into<String>, reason: &str) -> Self {
        let param = param.into();
        let message = format!("Unsupported parameter: '{param}'. {reason}");
        Self::invalid(param, "unsupported_parameter", message)
    }

    /// A required field that is absent.
    pub(crate) fn missing(param: impl Into<String>) -> Self {
        let param = param.into();
        let message = format!("Missing required parameter: '{param}'.");
        Self::invalid(param, "missing_required_parameter", message)
    }

    /// A word that is none of the allowed ones.
    pub(crate) fn invalid_value(param: impl Into<String>, found: &str, allowed: &[&str]) -> Self {
        let param = param.into();
        let allowed = allowed.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(", ");
        let message = format!("Invalid value: '{found}' for '{param}'. Supported values are: {allowed}.");
        Self::invalid(param, "invalid_value", message)
    }

    /// The status of the HTTP answer.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } | Self::ContextLength { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownModel { .. } | Self::NotFound { .. } | Self::UnknownUrl { .. } => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyUnfinished { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::ModelForbidden { .. } | Self::AdminOnly => StatusCode::FORBIDDEN,
            Self::RateLimited(_) | Self::QueueFull { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::QueueTimeout { .. } | Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn code(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { code, .. } | Self::Unauthorized { code, .. } => *code,
            Self::ContextLength { .. } => Some("context_length_exceeded"),
            Self::UnknownModel { .. } => Some("model_not_found"),
            Self::UnknownUrl { .. } => Some("unknown_url"),
            Self::MethodNotAllowed { .. } => Some("method_not_supported"),
            Self::UnsupportedMediaType { .. } => Some("unsupported_content_type"),
            Self::BodyTooLarge { .. } | Self::HeadTooLarge { .. } => Some("request_too_large"),
            Self::BodyUnfinished { .. } => Some("request_timeout"),
            Self::ModelForbidden { .. } => Some("model_not_found"),
            Self::AdminOnly => Some("insufficient_permissions"),
            Self::RateLimited(_) => Some("rate_limit_exceeded"),
            Self::QueueFull { .. } | Self::QueueTimeout { .. } | Self::Unavailable { .. } => {
                Some("server_overloaded")
            }
            Self::NotFound { .. } | Self::Internal { .. } => None,
        }
    }

    fn param(&self) -> Option<String> {
        match self {
            Self::Invalid { param, .. } => param.clone(),
            Self::ContextLength { param, .. } => Some((*param).to_owned()),
            Self::UnknownModel { .. } | Self::ModelForbidden { .. } => Some("model".to_owned()),
            _ => None,
        }
    }

    /// The envelope that this error has on the wire.
    pub fn body(&self) -> ErrorBody {
        let kind = match self {
            Self::Unavailable { .. } | Self::QueueFull { .. } | Self::QueueTimeout { .. } => {
                "service_unavailable_error"
            }
            Self::RateLimited(limit) => limit.kind,
            Self::Internal { .. } => "server_error",
            _ => "invalid_request_error",
        };
        ErrorBody {
            error: ErrorObject { message: self.to_string(), kind, param: self.param(), code: self.code() },
        }
    }
}

/// When it makes sense to try again, for clients that do so by themselves.
fn retry_after(error: &ApiError) -> Option<Duration> {
    match error {
        ApiError::RateLimited(limit) => Some(limit.retry_after),
        ApiError::QueueFull { .. } | ApiError::QueueTimeout { .. } | ApiError::Unavailable { .. } => {
            Some(Duration::from_secs(1))
        }
        _ => None,
    }
}

fn headers(error: &ApiError) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(pause) = retry_after(error) {
        // Whole seconds, at least one, for everybody; milliseconds for OpenAI's clients.
        headers.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs_f64().ceil().max(1.0) as u64));
        let millis = HeaderValue::from(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX));
        headers.insert(HeaderName::from_static("retry-after-ms"), millis);
    }
    if matches!(error, ApiError::Unauthorized { .. }) {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    headers
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status(), headers(&self), Json(self.body())).into_response()
    }
}
