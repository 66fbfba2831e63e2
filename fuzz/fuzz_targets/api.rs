//! Requests from strangers: whatever a body or a query says, the answer is no 5xx and nothing panics.
#![no_main]

mod server;
mod tokenizer;

use axum::body::Body;
use axum::http::Request;
use libfuzzer_sys::fuzz_target;
use server::SERVER;

/// The first byte of an input chooses; the rest is the body, or of a `GET` what follows the `?`.
const ROUTES: [(&str, &str); 14] = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/responses"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/chat/completions/render"),
    ("POST", "/v1/responses/input_tokens"),
    ("POST", "/v1/responses/compact"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
    ("POST", "/v1/conversations"),
    ("POST", "/v1/conversations/conv_1/items"),
    ("POST", "/v1/chat/completions/chatcmpl-1"),
    ("GET", "/v1/chat/completions"),
    ("GET", "/v1/responses/resp_1"),
    ("GET", "/v1/conversations/conv_1/items"),
];

fuzz_target!(|data: &[u8]| {
    let Some((choice, rest)) = data.split_first() else { return };
    let (method, path) = ROUTES[*choice as usize % ROUTES.len()];
    let (uri, body) = match method {
        "GET" => (format!("{path}?{}", String::from_utf8_lossy(rest)), Body::empty()),
        _ => (path.to_owned(), Body::from(rest.to_vec())),
    };
    // What is no URI does not reach a route.
    let Ok(request) = Request::builder().method(method).uri(uri).body(body) else { return };
    let (status, answer) = SERVER.answer(request);
    assert!(status < 500, "{status}: {}", String::from_utf8_lossy(&answer));
    assert!(!String::from_utf8_lossy(&answer).contains("\"server_error\""));
});
