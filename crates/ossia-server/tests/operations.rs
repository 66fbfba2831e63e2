//! What operators and their tools look at: life and readiness, metrics, and the dashboard that is built on them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use common::{TestServer, json_request};
use http_body_util::BodyExt;
use ossia_engine::EngineConfig;
use ossia_scripted::ScriptedOptions;
use ossia_server::{Access, KeySpec, Lifecycle, Phase, ServerConfig, hash_of};
use serde_json::{Value, json};
use tower::ServiceExt;

const CHAT: &str = "/v1/chat/completions";
const RULES: &str = r#"[{"pattern": "slowly", "text": "tick tick tick tick tick tick tick tick tick tick", "delay_ms": 20},
    {"pattern": "hi", "text": "hello there"}]"#;

fn ask(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "temperature": 0})
}

async fn get(app: &Router, path: &str) -> (u16, String) {
    let request = Request::builder().uri(path).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    assert!(path != "/v1/models" || !response.headers()["x-request-id"].is_empty());
    (status, String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().into()).unwrap())
}

#[tokio::test]
async fn a_server_answers_before_its_model_is_there_and_while_it_goes() {
    let (life, server) = (Lifecycle::default(), TestServer::new(RULES));
    let app = life.router();
    let statuses = async |expected: [u16; 5]| {
        let paths = ["/health", "/ready", "/version", "/v1/models", "/metrics"];
        for (path, expected) in paths.into_iter().zip(expected) {
            let (status, body) = get(&app, path).await;
            assert_eq!(status, expected, "{path} while {:?}: {body}", life.phase());
        }
    };
    statuses([200, 503, 200, 503, 503]).await;
    assert!(get(&app, "/v1/models").await.1.contains("still being loaded"));
    life.begin(server.state.clone());
    statuses([200, 200, 200, 200, 200]).await;
    let mut body = ask("slowly");
    body["stream"] = true.into();
    let open = app.clone().oneshot(json_request(CHAT, &body)).await.unwrap();
    assert_eq!(life.num_open(), 1);
    life.drain();
    statuses([200, 503, 200, 503, 200]).await;
    assert_eq!(
        server.post(CHAT, &ask("hi")).await.status,
        503,
        "nothing begins behind the lifecycle's back either"
    );
    assert_eq!(life.phase(), Phase::Draining);
    let text = open.into_body().collect().await.unwrap().to_bytes();
    assert!(text.ends_with(b"data: [DONE]\n\n"), "what has begun is finished");
    life.idle().await;
    assert_eq!(life.num_open(), 0);
}

#[tokio::test]
async fn an_answer_that_is_given_up_is_no_longer_open() {
    let (life, server) = (Lifecycle::default(), TestServer::new(RULES));
    life.begin(server.state.clone());
    let mut body = ask("slowly");
    body["stream"] = true.into();
    let open = life.router().oneshot(json_request(CHAT, &body)).await.unwrap();
    drop(open);
    life.idle().await;
    assert_eq!((life.num_open(), server.engine.stats().num_running), (0, 0));
}

/// The value of a series of this name and with all these labels.
fn value(metrics: &str, name: &str, labels: &[&str]) -> Option<f64> {
    let is_it = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|l| line.contains(l))
    };
    metrics.lines().find(is_it).and_then(|line| line.rsplit(' ').next()?.parse().ok())
}

#[tokio::test]
async fn metrics_count_what_happens() {
    let server = TestServer::new(RULES);
    let answer = server.ok(CHAT, &ask("hi")).await;
    let used = |field: &str| answer["usage"][field].as_f64();
    assert_eq!(server.post(CHAT, &json!({})).await.status, 400);
    assert_eq!(server.get("/nowhere/at/all").await.status, 404);
    let text = server.get("/metrics").await;
    assert!(text.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    let text = text.body.as_str().unwrap().to_owned();
    let of_model = ["model_name=\"gpt-oss\""];
    let cases: [(&str, &[&str], Option<f64>); 19] = [
        ("vllm:prompt_tokens_total", &of_model, used("prompt_tokens")),
        ("vllm:generation_tokens_total", &of_model, used("completion_tokens")),
        ("vllm:request_success_total", &["finished_reason=\"stop\""], Some(1.0)),
        ("vllm:time_to_first_token_seconds_count", &of_model, Some(1.0)),
        ("vllm:inter_token_latency_seconds_count", &of_model, used("completion_tokens").map(|n| n - 1.0)),
        ("vllm:e2e_request_latency_seconds_count", &of_model, Some(1.0)),
        ("vllm:num_requests_running", &of_model, Some(0.0)),
        ("vllm:num_requests_waiting", &of_model, Some(0.0)),
        ("vllm:kv_cache_usage_perc", &of_model, Some(0.0)),
        ("vllm:prefix_cache_queries_total", &of_model, used("prompt_tokens")),
        ("vllm:prefix_cache_hits_total", &of_model, Some(0.0)),
        ("vllm:cache_config_info", &["block_size=\"16\"", "num_gpu_blocks=\"4096\""], Some(1.0)),
        ("ossia_requests_total", &["route=\"/v1/chat/completions\"", "status=\"200\""], Some(1.0)),
        ("ossia_requests_total", &["route=\"/v1/chat/completions\"", "status=\"400\""], Some(1.0)),
        ("ossia_requests_total", &["route=\"other\"", "status=\"404\""], Some(1.0)),
        ("ossia_tokens_total", &["kind=\"generated\"", "tenant=\"\""], used("completion_tokens")),
        ("ossia_kv_cache_blocks", &["state=\"used\""], Some(0.0)),
        ("ossia_engine_rebuilds_total", &of_model, Some(0.0)),
        ("ossia_engine_stalls_total", &[], Some(0.0)),
    ];
    for (name, labels, expected) in cases {
        assert_eq!(value(&text, name, labels), expected, "{name} {labels:?} in\n{text}");
    }
}

#[tokio::test]
async fn metrics_of_tenants_are_for_administrators() {
    let key = |name: &str, admin| KeySpec {
        id: name.to_owned(),
        name: name.to_owned(),
        hash: hash_of(name),
        tenant: Some(format!("tenant-{name}")),
        requests_per_minute: None,
        tokens_per_minute: None,
        max_concurrent: None,
        models: Vec::new(),
        priority: 0,
        expires: None,
        admin,
    };
    let access = Access::default();
    access.set_keys(vec![key("ann", false), key("root", true)]).unwrap();
    let server = TestServer::with_access(RULES, &access, EngineConfig::default());
    assert_eq!(server.post_as("ann", CHAT, &ask("hi")).await.status, 200);
    assert_eq!(server.get("/metrics").await.status, 401);
    assert_eq!(server.get_as("ann", "/metrics").await.status, 403);
    let text = server.get_as("root", "/metrics").await.body.as_str().unwrap().to_owned();
    assert!(
        value(&text, "ossia_tokens_total", &["tenant=\"tenant-ann\"", "kind=\"prompt\""]) > Some(0.0),
        "{text}"
    );
}

/// Every metric that the dashboard asks for is there under this name.
#[tokio::test]
async fn the_dashboard_asks_for_metrics_that_exist() {
    let server = TestServer::new(RULES);
    server.ok(CHAT, &ask("hi")).await;
    let text = server.get("/metrics").await.body.as_str().unwrap().to_owned();
    let exported: BTreeSet<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let dashboard: Value = serde_json::from_str(include_str!("../../../config/grafana.json")).unwrap();
    let mut num_names = 0;
    for target in
        dashboard["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array()).flatten()
    {
        let query = target["expr"].as_str().unwrap();
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
        let words = query.split(|c: char| !is_name(c));
        for name in words.filter(|word| word.starts_with("vllm:") || word.starts_with("ossia_")) {
            assert!(exported.contains(name), "{name} in {query} is none of {exported:#?}");
            num_names += 1;
        }
    }
    assert!(num_names > 20, "{num_names} metrics in the dashboard");
}

#[tokio::test]
async fn lists_and_answers_have_a_length() {
    let config =
        ServerConfig { max_messages: 2, max_tools: 1, max_output_tokens: Some(3), ..ServerConfig::default() };
    let options = ScriptedOptions { num_blocks: 4096, ..ScriptedOptions::default() };
    let server = TestServer::with(RULES, options, config);
    let message = json!({"role": "user", "content": "hi"});
    let tool = |name: &str| json!({"type": "function", "name": name, "function": {"name": name}});
    let cases = [
        (CHAT, json!({"messages": [message, message, message]}), "messages"),
        (CHAT, json!({"messages": [message], "tools": [tool("a"), tool("b")]}), "tools"),
        ("/v1/responses", json!({"input": [message, message, message]}), "input"),
        ("/v1/responses", json!({"input": "hi", "tools": [tool("a"), tool("b")]}), "tools"),
    ];
    for (path, body, param) in cases {
        let answer = server.post(path, &body).await;
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.body["error"]["param"], param, "{}", answer.body);
        assert_eq!(answer.body["error"]["code"], "array_above_max_length", "{}", answer.body);
    }
    for (path, body) in [(CHAT, json!({"messages": [message]})), ("/v1/completions", json!({"prompt": "hi"}))]
    {
        assert_eq!(server.ok(path, &body).await["usage"]["completion_tokens"], 3, "{path}");
    }
}
