//! An in-process server over the scripted runner.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod postgres;
pub(crate) mod stores;
pub(crate) mod tokenizer;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use ossia_engine::{Engine, EngineConfig, EngineHandle, EngineThread, ModelRunner};
use ossia_harmony::Tokenizer;
use ossia_scripted::{Rules, ScriptedOptions, ScriptedRunner};
use ossia_server::{Access, AppState, ServerConfig, Services, router};
use serde_json::Value;
use tower::ServiceExt;

/// A server and its engine, which ends with it.
pub(crate) struct TestServer {
    pub(crate) app: Router,
    pub(crate) engine: EngineHandle,
    pub(crate) state: AppState,
    pub(crate) _thread: EngineThread,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

/// A server-sent event: its name, empty if it has none, and its data.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SseEvent {
    pub(crate) name: String,
    pub(crate) data: Value,
}

impl TestServer {
    pub(crate) fn new(rules: &str) -> Self {
        Self::with(
            rules,
            ScriptedOptions { num_blocks: 4096, ..ScriptedOptions::default() },
            ServerConfig::default(),
        )
    }

    /// A server whose model has the whole vocabulary.
    pub(crate) fn o200k(rules: &str) -> Self {
        let options = ScriptedOptions { num_blocks: 4096, ..ScriptedOptions::default() };
        Self::build(tokenizer::o200k(), rules, options, ServerConfig::default())
    }

    pub(crate) fn with(rules: &str, options: ScriptedOptions, config: ServerConfig) -> Self {
        Self::build(tokenizer::small(), rules, options, config)
    }

    fn build(tokenizer: Tokenizer, rules: &str, options: ScriptedOptions, config: ServerConfig) -> Self {
        let runner =
            ScriptedRunner::new(tokenizer.clone(), Rules::from_json(rules).unwrap(), options).unwrap();
        Self::of_runner(Box::new(runner), tokenizer, config)
    }

    /// A server of any runner.
    pub(crate) fn of_runner(
        runner: Box<dyn ModelRunner>,
        tokenizer: Tokenizer,
        config: ServerConfig,
    ) -> Self {
        Self::of_services(runner, EngineConfig::default(), (tokenizer, config, Services::default()))
    }

    /// A server whose callers need a key, on the small vocabulary and with room for much.
    pub(crate) fn with_access(rules: &str, access: &Access, engine: EngineConfig) -> Self {
        let tokenizer = tokenizer::small();
        let options = ScriptedOptions { num_blocks: 4096, ..ScriptedOptions::default() };
        let runner =
            ScriptedRunner::new(tokenizer.clone(), Rules::from_json(rules).unwrap(), options).unwrap();
        let services = Services { access: access.clone(), ..Services::default() };
        Self::of_services(Box::new(runner), engine, (tokenizer, ServerConfig::default(), services))
    }

    fn of_services(
        runner: Box<dyn ModelRunner>,
        engine: EngineConfig,
        (tokenizer, config, services): (Tokenizer, ServerConfig, Services),
    ) -> Self {
        let (engine, thread) = Engine::start(runner, engine).unwrap();
        let state = AppState::with_services(engine.clone(), tokenizer, config, services);
        Self { app: router(state.clone()), engine, state, _thread: thread }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.app.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body =
            serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into()));
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(json_request(path, body)).await
    }

    /// A `POST` with a key.
    pub(crate) async fn post_as(&self, key: &str, path: &str, body: &Value) -> Answer {
        self.send(with_key(json_request(path, body), key)).await
    }

    /// A `GET` with a key.
    pub(crate) async fn get_as(&self, key: &str, path: &str) -> Answer {
        self.send(with_key(Request::builder().uri(path).body(Body::empty()).unwrap(), key)).await
    }

    /// The body of an answer that has to be a success.
    pub(crate) async fn ok(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status, StatusCode::OK, "{path} {body}: {}", answer.body);
        answer.body
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::builder().uri(path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(Request::builder().method(Method::DELETE).uri(path).body(Body::empty()).unwrap()).await
    }

    /// The body of an answer to a `GET` that has to be a success.
    pub(crate) async fn read(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        answer.body
    }

    /// All events of a stored stream.
    pub(crate) async fn replay(&self, path: &str) -> Vec<SseEvent> {
        events(&self.get(path).await)
    }

    /// All events of a stream without the closing `[DONE]`, which has to be there.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> Vec<SseEvent> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let answer = self.post(path, &body).await;
        events(&answer)
    }
}

fn events(answer: &Answer) -> Vec<SseEvent> {
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let text = answer.body.as_str().expect("a stream is not JSON").to_owned();
    let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"));
    events.retain(|event| !event.starts_with(':')); // comments that keep the connection alive
    events.into_iter().map(parse_event).collect()
}

/// A `POST` of JSON.
pub(crate) fn json_request(path: &str, body: &Value) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap()
}

/// The request of somebody who has this key.
pub(crate) fn with_key(mut request: Request<Body>, key: &str) -> Request<Body> {
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

fn parse_event(text: &str) -> SseEvent {
    let mut event = SseEvent { name: String::new(), data: Value::Null };
    for line in text.lines() {
        match line.split_once(": ") {
            Some(("event", name)) => event.name = name.to_owned(),
            Some(("data", data)) => event.data = serde_json::from_str(data).unwrap(),
            _ => panic!("unexpected line {line:?}"),
        }
    }
    event
}
