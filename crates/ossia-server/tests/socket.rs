//! `/v1/responses` over a WebSocket, with a real client on loopback.
#![allow(clippy::unwrap_used)]

mod common;

use common::TestServer;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const RULES: &str = r#"[{"pattern": "sum", "text": "<|channel|>analysis<|message|>17 plus 25.<|end|><|start|>assistant<|channel|>final<|message|>It is 42.<|return|>"}]"#;

struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn connect(server: &TestServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = server.app.clone();
        tokio::spawn(async move { axum::serve(listener, app).await });
        let stream = TcpStream::connect(address).await.unwrap();
        let url = format!("ws://{address}/v1/responses");
        Self(tokio_tungstenite::client_async(url, stream).await.unwrap().0)
    }

    async fn send(&mut self, body: &Value) {
        let mut body = body.clone();
        body["type"] = "response.create".into();
        self.0.send(Message::text(body.to_string())).await.unwrap();
    }

    async fn event(&mut self) -> Value {
        loop {
            match self.0.next().await.unwrap().unwrap() {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// All events up to the last of a response, or the error.
    async fn ask(&mut self, body: &Value) -> Vec<Value> {
        self.send(body).await;
        self.rest().await
    }

    async fn rest(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            events.push(self.event().await);
            let kind = events.last().unwrap()["type"].as_str().unwrap();
            if ["response.completed", "response.incomplete", "response.failed", "error"].contains(&kind) {
                return events;
            }
        }
    }
}

fn response(events: &[Value]) -> &Value {
    &events.last().unwrap()["response"]
}

#[tokio::test]
async fn a_socket_says_what_a_stream_says() {
    let server = TestServer::new(RULES);
    let mut client = Client::connect(&server).await;
    let body = json!({"input": "sum", "temperature": 0});
    let events = client.ask(&body).await;
    let streamed = server.stream("/v1/responses", &body).await;
    let kinds =
        |event: &Value| (event["type"].clone(), event["sequence_number"].clone(), event["delta"].clone());
    assert_eq!(
        events.iter().map(kinds).collect::<Vec<_>>(),
        streamed.iter().map(|event| kinds(&event.data)).collect::<Vec<_>>()
    );
    let path = format!("/v1/responses/{}", response(&events)["id"].as_str().unwrap());
    assert_eq!(server.read(&path).await, *response(&events));
}

#[tokio::test]
async fn requests_wait_for_each_other_and_keep_their_lane() {
    let server = TestServer::new(RULES);
    let mut client = Client::connect(&server).await;
    for lane in ["a", "b"] {
        client.send(&json!({"input": "sum", "stream_id": lane})).await;
    }
    for lane in ["a", "b"] {
        let events = client.rest().await;
        assert!(events.iter().all(|event| event["stream_id"] == lane), "{events:?}");
    }
}

#[tokio::test]
async fn what_is_not_stored_is_continued_on_its_connection_only() {
    let server = TestServer::new("[]");
    let mut client = Client::connect(&server).await;
    let tools = json!([{"type": "function", "name": "get_weather", "parameters": {"type": "object",
        "properties": {"city": {"type": "string"}}, "required": ["city"]}}]);
    let first = client.ask(&json!({"input": "Weather?", "tools": tools, "store": false})).await;
    let first = response(&first).clone();
    let call = first["output"].as_array().unwrap().last().unwrap();
    let result = json!([{"type": "function_call_output", "call_id": call["call_id"], "output": "Rain"}]);
    let next = json!({"input": result, "tools": tools, "store": false, "previous_response_id": first["id"]});
    let second = client.ask(&next).await;
    let text = &response(&second)["output"].as_array().unwrap().last().unwrap()["content"][0]["text"];
    assert_eq!(text, "The tool says: Rain");
    assert_eq!(server.get(&format!("/v1/responses/{}", first["id"].as_str().unwrap())).await.status, 404);

    // The store gets what the connection kept, so that the chain is whole for everybody.
    let third = json!({"input": "hello", "previous_response_id": response(&second)["id"]});
    let third = response(&client.ask(&third).await).clone();
    let items = server.read(&format!("/v1/responses/{}/input_items", third["id"].as_str().unwrap())).await;
    assert!(items["data"].as_array().unwrap().iter().any(|item| item["output"] == "Rain"));
    server.ok("/v1/responses", &json!({"input": "x", "previous_response_id": third["id"]})).await;

    let error = Client::connect(&server).await.ask(&next).await.pop().unwrap();
    assert_eq!(
        (&error["type"], &error["status"], &error["code"]),
        (&json!("error"), &json!(400), &json!("previous_response_not_found"))
    );
    assert_eq!(error["error"]["param"], "previous_response_id");
}

#[tokio::test]
async fn a_request_can_be_prepared() {
    let server = TestServer::new(RULES);
    let mut client = Client::connect(&server).await;
    let text = "much to read ahead of time, ".repeat(10);
    let warm = json!({"instructions": text, "input": [], "store": false, "generate": false});
    let warm = client.ask(&warm).await;
    assert_eq!(response(&warm)["output"], json!([]));
    let spoken = &response(&warm)["usage"]["output_tokens"];
    assert_eq!((&response(&warm)["status"], spoken), (&json!("completed"), &json!(0)));
    let id = &response(&warm)["id"];
    let next = json!({"instructions": text, "input": "sum", "store": false, "previous_response_id": id});
    let next = client.ask(&next).await;
    assert!(response(&next)["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() > 0);
    assert_eq!(response(&next)["output"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_failed_continuation_forgets_what_it_continued() {
    let server = TestServer::new(RULES);
    let mut client = Client::connect(&server).await;
    let first = response(&client.ask(&json!({"input": "sum", "store": false})).await)["id"].clone();
    let bad = json!({"input": "sum", "store": false, "previous_response_id": first, "temperature": 9});
    assert_eq!(client.ask(&bad).await.pop().unwrap()["param"], "temperature");
    let good = json!({"input": "sum", "store": false, "previous_response_id": first});
    assert_eq!(client.ask(&good).await.pop().unwrap()["code"], "previous_response_not_found");
}

#[tokio::test]
async fn faults_are_events_and_the_socket_lives_on() {
    let server = TestServer::new(RULES);
    let mut client = Client::connect(&server).await;
    for (text, param) in [
        ("{", Value::Null),
        (r#"{"input": "x"}"#, json!("type")),
        (r#"{"type": "response.cancel"}"#, json!("type")),
        (r#"{"type": "response.create", "input": 3}"#, json!("input")),
        (r#"{"type": "response.create", "input": "x", "background": true}"#, json!("background")),
    ] {
        client.0.send(Message::text(text)).await.unwrap();
        let event = client.event().await;
        assert_eq!((&event["type"], &event["param"]), (&json!("error"), &param), "{text}: {event}");
    }
    assert_eq!(response(&client.ask(&json!({"input": "sum"})).await)["status"], "completed");
    assert_eq!(server.get("/v1/responses").await.status, 405);
}

#[tokio::test]
async fn a_client_that_goes_away_aborts_its_response() {
    let rules = json!([{"pattern": "slowly", "text": "tick ".repeat(100), "delay_ms": 50}]).to_string();
    let server = TestServer::new(&rules);
    let mut client = Client::connect(&server).await;
    client.send(&json!({"input": "slowly"})).await;
    client.event().await;
    drop(client);
    while server.engine.stats().num_running > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
