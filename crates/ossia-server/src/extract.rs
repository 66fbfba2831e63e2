//! What handlers take from a request: JSON bodies (content type, size, syntax and types), ids and queries, each
//! fault named in OpenAI's envelope.

use std::convert::Infallible;
use std::error::Error;
use std::io;

use axum::body::to_bytes;
use axum::extract::{FromRequest, FromRequestParts, Path as UrlPath, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::Path;

use crate::error::ApiError;
use crate::state::AppState;
use crate::store::Tenant;
use crate::strict::Strict;

/// A request body of type `T`.
pub(crate) struct ApiJson<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequest<AppState> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        check_content_type(request.headers())?;
        let limit_bytes = state.config().max_body_bytes;
        check_content_length(request.headers(), limit_bytes)?;
        let bytes = to_bytes(request.into_body(), limit_bytes)
            .await
            .map_err(|error| body_error(&error, limit_bytes))?;
        parse(&bytes).map(Self)
    }
}

/// Longest URL and headers together, in bytes.
pub const MAX_HEAD_BYTES: usize = 64 << 10;

/// The layer that holds heads to [`MAX_HEAD_BYTES`]. A connection bounds what it buffers of a head that comes in pieces;
/// one that came in one piece is seen here first.
pub(crate) async fn bound_head(request: Request, next: Next) -> Result<Response, ApiError> {
    let headers = request.headers().iter();
    let len = headers.map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>()
        + request.uri().path_and_query().map_or(0, |url| url.as_str().len());
    if len > MAX_HEAD_BYTES {
        return Err(ApiError::HeadTooLarge { len, limit_bytes: MAX_HEAD_BYTES });
    }
    Ok(next.run(request).await)
}

/// A body is too long, its chunks are none, or it stopped coming.
fn body_error(error: &axum::Error, limit_bytes: usize) -> ApiError {
    let mut cause = error.source();
    while let Some(found) = cause {
        if found.is::<LengthLimitError>() {
            return ApiError::BodyTooLarge { limit_bytes };
        }
        if let Some(io) = found.downcast_ref::<io::Error>()
            && matches!(io.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
        {
            let message = format!("The chunks of the request body make no sense: {io}.");
            return ApiError::Invalid { param: None, code: Some("invalid_request"), message };
        }
        cause = found.source();
    }
    ApiError::BodyUnfinished { reason: error.to_string() }
}

impl<S: Send + Sync> FromRequestParts<S> for Tenant {
    type Rejection = Infallible;

    /// Whoever a layer before found out, or the one tenant of a server without keys.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_else(|| Self("".into())))
    }
}

/// The id in a URL.
pub(crate) struct ApiPath(pub(crate) String);

impl FromRequestParts<AppState> for ApiPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let path = UrlPath::<String>::from_request_parts(parts, state).await;
        path.map(|UrlPath(id)| Self(id)).map_err(|error| url_error("path", &error.body_text()))
    }
}

/// The two ids in a URL.
pub(crate) struct ApiPathPair(pub(crate) String, pub(crate) String);

impl FromRequestParts<AppState> for ApiPathPair {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let path = UrlPath::<(String, String)>::from_request_parts(parts, state).await;
        path.map(|UrlPath((first, second))| Self(first, second))
            .map_err(|error| url_error("path", &error.body_text()))
    }
}

/// The query string of a URL.
pub(crate) struct ApiQuery<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|error| url_error("query", &error.body_text()))
    }
}

fn url_error(part: &str, reason: &str) -> ApiError {
    let message = format!("Invalid {part} of the URL: {reason}.");
    ApiError::Invalid { param: None, code: Some("invalid_value"), message }
}

/// Absent is fine; anything but JSON is not.
fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let found = String::from_utf8_lossy(value.as_bytes());
    let essence = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.ends_with("+json") {
        return Ok(());
    }
    Err(ApiError::UnsupportedMediaType { found: found.into_owned() })
}

fn check_content_length(headers: &HeaderMap, limit_bytes: usize) -> Result<(), ApiError> {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse::<u64>().ok());
    match length {
        Some(length) if length > limit_bytes as u64 => Err(ApiError::BodyTooLarge { limit_bytes }),
        _ => Ok(()),
    }
}

/// Parses a whole body.
///
/// # Errors
/// 400: for malformed JSON without `param`, for a value of the wrong type with the path of the field.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    from_value(serde_json::from_slice(bytes).map_err(|error| syntax_error(&error))?)
}

/// Reads a parsed body.
///
/// # Errors
/// 400 with the path of the field whose value is of the wrong type.
pub(crate) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(Strict(value)).map_err(|error| type_error(error.path(), error.inner()))
}

fn syntax_error(error: &serde_json::Error) -> ApiError {
    let message = format!("We could not parse the JSON body of your request: {error}.");
    ApiError::Invalid { param: None, code: Some("invalid_json"), message }
}

fn type_error(path: &Path, error: &serde_json::Error) -> ApiError {
    let reason = error.to_string();
    let path = if path.iter().len() == 0 { String::new() } else { path.to_string() };
    if let Some(field) = reason.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
        return ApiError::missing(join(&path, field));
    }
    if path.is_empty() {
        let message = format!("Invalid type for the request body: {reason}.");
        return ApiError::Invalid { param: None, code: Some("invalid_type"), message };
    }
    let message = format!("Invalid type for '{path}': {reason}.");
    ApiError::invalid(path, "invalid_type", message)
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::chat::ChatRequest;
    use crate::wire::responses::ResponseRequest;

    fn param<T: DeserializeOwned>(body: &str) -> (Option<String>, Option<&'static str>) {
        match parse::<T>(body.as_bytes()) {
            Err(ApiError::Invalid { param, code, .. }) => (param, code),
            Err(other) => panic!("{body}: {other}"),
            Ok(_) => panic!("{body} was accepted"),
        }
    }

    #[test]
    fn names_the_path_of_a_wrong_type() {
        let cases = [
            (r#"{"messages": 3}"#, "messages"),
            (r#"{"messages": [{"role": "user", "content": 3}]}"#, "messages[0].content"),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}"#,
                "messages[0].content[0].text",
            ),
            (r#"{"messages": [{"role": "robot"}]}"#, "messages[0].role"),
            (r#"{"temperature": "hot"}"#, "temperature"),
            (r#"{"max_tokens": 1.5}"#, "max_tokens"),
            (r#"{"stop": {"a": 1}}"#, "stop"),
            (r#"{"tools": [{"type": "function", "function": {"name": 4}}]}"#, "tools[0].function.name"),
        ];
        for (body, expected) in cases {
            assert_eq!(
                param::<ChatRequest>(body),
                (Some(expected.to_owned()), Some("invalid_type")),
                "{body}"
            );
        }
        let (path, _) =
            param::<ResponseRequest>(r#"{"input": [{"type": "message", "content": [{"type": 1}]}]}"#);
        assert_eq!(path.as_deref(), Some("input[0].content[0].type"));
    }

    /// Derived implementations would take the items of a list for the fields of a struct.
    #[test]
    fn a_list_is_no_object() {
        let cases = [
            (r#"{"messages": [["user", "hi"]]}"#, "messages[0]"),
            (r#"{"messages": [{"role": "user", "content": [["text", "hi"]]}]}"#, "messages[0].content[0]"),
            (r#"{"stream_options": [true]}"#, "stream_options"),
            (r#"{"tools": [{"type": "function", "function": ["f"]}]}"#, "tools[0].function"),
            (r#"{"tool_choice": ["function"]}"#, "tool_choice"),
        ];
        for (body, expected) in cases {
            assert_eq!(
                param::<ChatRequest>(body),
                (Some(expected.to_owned()), Some("invalid_type")),
                "{body}"
            );
        }
        let (path, _) = param::<ResponseRequest>(r#"{"input": "x", "reasoning": ["low"]}"#);
        assert_eq!(path.as_deref(), Some("reasoning"));
    }

    #[test]
    fn names_missing_fields_and_bad_syntax() {
        let (path, code) = param::<ChatRequest>(r#"{"messages": [{"content": "x"}]}"#);
        assert_eq!((path.as_deref(), code), (Some("messages[0].role"), Some("missing_required_parameter")));
        let deep = "[".repeat(200);
        for body in ["", "{", "{\"messages\": [}", "{} {}", "\u{1}", &deep] {
            assert_eq!(param::<ChatRequest>(body), (None, Some("invalid_json")), "{body:?}");
        }
        assert_eq!(param::<ChatRequest>("[]").1, Some("invalid_type"));
        assert_eq!(param::<ChatRequest>("3"), (None, Some("invalid_type")));
    }

    #[test]
    fn unknown_fields_and_nulls_are_fine() {
        parse::<ChatRequest>(br#"{"messages": [], "wibble": {"a": [1]}, "stop": null, "tools": null}"#)
            .expect("accepted");
        parse::<ResponseRequest>(br#"{"input": "x", "text": {"format": null, "more": 1}}"#)
            .expect("accepted");
    }
}
