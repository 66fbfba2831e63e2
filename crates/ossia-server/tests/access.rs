//! Keys, limits and tenants: who may ask for what, and what the others are told.
#![allow(clippy::unwrap_used)]

mod common;

use axum::body::Body;
use axum::http::Request;
use common::{Answer, TestServer, json_request, with_key};
use http_body_util::BodyExt;
use ossia_engine::EngineConfig;
use ossia_server::{Access, KeySpec, hash_of};
use serde_json::{Value, json};
use tower::ServiceExt;

const CHAT: &str = "/v1/chat/completions";
const RULES: &str = r#"[
    {"pattern": "slowly", "text": "tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick tick", "delay_ms": 20},
    {"pattern": "hi", "text": "hello there"}
]"#;

fn key(secret: &str) -> KeySpec {
    KeySpec {
        id: format!("key_{secret}"),
        name: secret.to_owned(),
        hash: hash_of(secret),
        tenant: None,
        requests_per_minute: None,
        tokens_per_minute: None,
        max_concurrent: None,
        models: Vec::new(),
        priority: 0,
        expires: None,
        admin: false,
    }
}

fn server(keys: Vec<KeySpec>) -> (TestServer, Access) {
    let access = Access::default();
    access.set_keys(keys).unwrap();
    (TestServer::with_access(RULES, &access, EngineConfig::default()), access)
}

fn ask(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0})
}

#[track_caller]
fn check(answer: &Answer, status: u16, kind: &str, code: Value) {
    assert_eq!(answer.status, status, "{}", answer.body);
    let error = &answer.body["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!(kind), &code), "{}", answer.body);
    assert!(error["message"].as_str().unwrap().len() > 10);
    assert!(!answer.headers["x-request-id"].is_empty());
}

#[tokio::test]
async fn nobody_comes_in_without_a_key_that_is_good() {
    let expired = KeySpec { expires: Some("2020-02-29".to_owned()), ..key("old") };
    let (server, _) = server(vec![key("good"), expired]);
    for path in ["/v1/models", "/v1/responses/resp_1", "/v1/loads", "/nowhere", "/v1/conversations/x/items"] {
        check(&server.get(path).await, 401, "invalid_request_error", Value::Null);
    }
    let answer = server.post(CHAT, &ask("hi")).await;
    check(&answer, 401, "invalid_request_error", Value::Null);
    assert_eq!(answer.headers["www-authenticate"], "Bearer");
    for wrong in ["bad", "goo", "good2", "Good", "old", "sha256:00"] {
        let answer = server.post_as(wrong, CHAT, &ask("hi")).await;
        check(&answer, 401, "invalid_request_error", json!("invalid_api_key"));
    }
    for header in ["Basic good", "good", "Bearer", "Bearer "] {
        let mut request = json_request(CHAT, &ask("hi"));
        request.headers_mut().insert("authorization", header.parse().unwrap());
        check(&server.send(request).await, 401, "invalid_request_error", Value::Null);
    }
    assert_eq!(server.post_as("good", CHAT, &ask("hi")).await.status, 200);
    assert_eq!(server.get("/health").await.status, 200);
}

#[tokio::test]
async fn keys_change_while_the_server_runs() {
    let (server, access) = server(vec![key("one")]);
    assert_eq!(server.get_as("one", "/v1/models").await.status, 200);
    access.set_keys(vec![key("two")]).unwrap();
    assert_eq!(server.get_as("one", "/v1/models").await.status, 401);
    assert_eq!(server.get_as("two", "/v1/models").await.status, 200);
    // What makes no sense changes nothing.
    let broken = KeySpec { hash: "x".to_owned(), ..key("three") };
    assert!(access.set_keys(vec![broken]).is_err());
    assert_eq!(server.get_as("two", "/v1/models").await.status, 200);
}

#[tokio::test]
async fn a_key_is_for_its_models_and_its_place() {
    let one = KeySpec { models: vec!["other".to_owned()], ..key("one") };
    let (server, _) = server(vec![one, KeySpec { admin: true, ..key("admin") }]);
    for path in [CHAT, "/v1/completions", "/v1/responses", "/v1/responses/compact"] {
        let mut body = ask("hi");
        body[if path == "/v1/completions" { "prompt" } else { "input" }] = "hi".into();
        let answer = server.post_as("one", path, &body).await;
        check(&answer, 403, "invalid_request_error", json!("model_not_found"));
        assert_eq!(answer.body["error"]["param"], "model");
    }
    assert_eq!(server.get_as("one", "/v1/models").await.body["data"], json!([]));
    check(
        &server.get_as("one", "/v1/loads").await,
        403,
        "invalid_request_error",
        json!("insufficient_permissions"),
    );
    assert_eq!(server.get_as("admin", "/v1/loads").await.status, 200);
}

#[tokio::test]
async fn requests_per_minute() {
    let (server, access) = server(vec![KeySpec { requests_per_minute: Some(2), ..key("a") }, key("b")]);
    let first = server.post_as("a", CHAT, &ask("hi")).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.headers["x-ratelimit-limit-requests"], "2");
    assert_eq!(first.headers["x-ratelimit-remaining-requests"], "1");
    assert!(!first.headers["x-ratelimit-reset-requests"].is_empty());
    assert!(!first.headers.contains_key("x-ratelimit-limit-tokens"));
    // Reading costs nothing.
    assert_eq!(server.get_as("a", "/v1/models").await.headers["x-ratelimit-remaining-requests"], "1");
    assert_eq!(server.post_as("a", CHAT, &ask("hi")).await.status, 200);
    let refused = server.post_as("a", CHAT, &ask("hi")).await;
    check(&refused, 429, "requests", json!("rate_limit_exceeded"));
    assert_eq!(refused.headers["x-ratelimit-remaining-requests"], "0");
    let seconds: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    let millis: u64 = refused.headers["retry-after-ms"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds) && millis <= seconds * 1000, "{seconds} s, {millis} ms");
    assert!(server.post_as("b", CHAT, &ask("hi")).await.headers.get("x-ratelimit-limit-requests").is_none());
    // A change of the keys gives nothing back.
    access.set_keys(vec![KeySpec { requests_per_minute: Some(2), ..key("a") }]).unwrap();
    assert_eq!(server.post_as("a", "/v1/responses", &json!({"input": "hi"})).await.status, 429);
}

#[tokio::test]
async fn tokens_per_minute_count_prompts_and_answers() {
    let (server, _) = server(vec![KeySpec { tokens_per_minute: Some(600), ..key("a") }]);
    let answer = server.post_as("a", CHAT, &ask("hi")).await;
    let used = answer.body["usage"]["total_tokens"].as_u64().unwrap();
    let left = server.get_as("a", "/v1/models").await;
    let left: u64 = left.headers["x-ratelimit-remaining-tokens"].to_str().unwrap().parse().unwrap();
    // Some may have come back since.
    assert!(left >= 600 - used && left < 600, "{used} used, {left} left");
    let (server, _) = server_with_tokens(1);
    assert_eq!(
        server.post_as("a", CHAT, &ask("hi")).await.status,
        200,
        "how long an answer gets is not known before"
    );
    check(&server.post_as("a", CHAT, &ask("hi")).await, 429, "tokens", json!("rate_limit_exceeded"));
}

fn server_with_tokens(limit: u64) -> (TestServer, Access) {
    server(vec![KeySpec { tokens_per_minute: Some(limit), ..key("a") }])
}

#[tokio::test]
async fn requests_at_the_same_time() {
    let (server, _) = server(vec![KeySpec { max_concurrent: Some(1), ..key("a") }]);
    let mut body = ask("slowly");
    body["stream"] = true.into();
    let slow = server.app.clone().oneshot(with_key(json_request(CHAT, &body), "a")).await.unwrap();
    assert_eq!(slow.status(), 200);
    check(&server.post_as("a", CHAT, &ask("hi")).await, 429, "requests", json!("rate_limit_exceeded"));
    slow.into_body().collect().await.unwrap();
    assert_eq!(server.post_as("a", CHAT, &ask("hi")).await.status, 200);
    // A client that goes away gives its place back.
    let slow = server.app.clone().oneshot(with_key(json_request(CHAT, &body), "a")).await.unwrap();
    drop(slow);
    assert_eq!(server.post_as("a", CHAT, &ask("hi")).await.status, 200);
}

#[tokio::test]
async fn tenants_see_nothing_of_each_other() {
    let of = |secret: &str, tenant: &str| KeySpec { tenant: Some(tenant.to_owned()), ..key(secret) };
    let (server, _) = server(vec![of("a1", "a"), of("a2", "a"), of("b1", "b")]);
    let response = server.post_as("a1", "/v1/responses", &json!({"input": "hi"})).await.body;
    let path = format!("/v1/responses/{}", response["id"].as_str().unwrap());
    assert_eq!(server.get_as("a2", &path).await.status, 200);
    assert_eq!(server.get_as("b1", &path).await.status, 404);
    let next = json!({"input": "hi", "previous_response_id": response["id"]});
    assert_eq!(server.post_as("b1", "/v1/responses", &next).await.status, 400);
    // What one tenant asked is not in the other's prefix cache, whatever salt the other guesses.
    let long = format!("hi {}", "word ".repeat(200));
    let cached =
        |answer: Answer| answer.body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached(server.post_as("a1", CHAT, &ask(&long)).await) < 100, "the system message at most");
    assert!(cached(server.post_as("a2", CHAT, &ask(&long)).await) > 200);
    for salt in [Value::Null, json!("a"), json!("1:a")] {
        let mut body = ask(&long);
        body["cache_salt"] = salt.clone();
        assert_eq!(cached(server.post_as("b1", CHAT, &body).await), 0, "{salt}");
    }
}

#[tokio::test]
async fn a_request_id_is_kept_and_one_is_made() {
    let (server, _) = server(vec![key("a")]);
    let request =
        Request::builder().uri("/v1/models").header("x-request-id", "mine").body(Body::empty()).unwrap();
    assert_eq!(server.send(with_key(request, "a")).await.headers["x-request-id"], "mine");
    assert_eq!(server.get_as("a", "/v1/models").await.headers["x-request-id"].len(), 36);
}
