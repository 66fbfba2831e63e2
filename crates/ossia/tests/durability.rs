//! `kill -9` in the middle of fifty requests: after a restart every response whose last event was sent is there, as
//! it was sent, and none is there by halves; on SQLite and on PostgreSQL.
#![allow(clippy::unwrap_used)]

#[path = "../../ossia-server/tests/common/postgres.rs"]
mod postgres;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use postgres::Postgres;
use serde_json::{Value, json};

const NUM_REQUESTS: usize = 50;
/// The server is killed when so many have ended.
const NUM_BEFORE_KILL: usize = 20;
const NUM_LENGTHS: usize = 10;

struct Server {
    child: Child,
    address: String,
}

/// What a client saw of its request before the server died.
#[derive(Debug, Default)]
struct Seen {
    path: String,
    /// The object as the last event had it.
    finished: Option<Value>,
    background: bool,
}

impl Server {
    fn start(store: &str, rules: &std::path::Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ossia"))
            .args([
                "serve",
                &format!("scripted:{}", rules.display()),
                "--port",
                "0",
                "--scripted-delay-ms",
                "2",
            ])
            .args(["--store", store])
            .env("OSSIA_ENCRYPTION_KEY", "0f".repeat(32))
            .env("OSSIA_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let address = loop {
            let line = lines.next().unwrap_or_else(|| panic!("the server ended: {log:?}")).unwrap();
            if let Some((_, rest)) = line.split_once("http://") {
                break rest.trim_end_matches("/v1").to_owned();
            }
            log.push(line);
        };
        // Nobody may wait because the log is not read.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    /// `kill -9`.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    /// No server stays behind when a test fails.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer without its headers; whatever came before the connection broke.
fn exchange(address: &str, method: &str, path: &str, body: &str) -> (String, Vec<u8>) {
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // HTTP/1.0: the body ends with the connection and comes in no chunks.
        let head = format!(
            "{method} {path} HTTP/1.0\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
        let _ = stream.read_to_end(&mut answer);
    }
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
    let body = answer.split_off(end);
    (String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned(), body)
}

fn get(address: &str, path: &str) -> Option<Value> {
    let (status, body) = exchange(address, "GET", path, "");
    match status.split(' ').nth(1).unwrap() {
        "200" => Some(serde_json::from_slice(&body).unwrap()),
        "404" => None,
        _ => panic!("{path}: {status} {}", String::from_utf8_lossy(&body)),
    }
}

/// The data of all whole events.
fn events(body: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(body);
    let whole = text.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    let data = whole.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The `i`th of the mixed requests.
fn request(address: &str, i: usize, conversation: &str) -> Seen {
    let input = format!("length{}", i / 5 % NUM_LENGTHS);
    let mut body = json!({"input": input, "stream": true});
    match i % 5 {
        0 => {}
        1 => body["stream"] = false.into(),
        2 => body["background"] = true.into(),
        3 => body["conversation"] = conversation.into(),
        _ => return chat(address, &input),
    }
    let (_, answer) = exchange(address, "POST", "/v1/responses", &body.to_string());
    let (first, finished) = if i % 5 == 1 {
        let whole: Option<Value> = serde_json::from_slice(&answer).ok();
        (whole.clone(), whole)
    } else {
        let events = events(&answer);
        let first = events.first().map(|event| event["response"].clone());
        let last = events.last().filter(|event| event["type"] == "response.completed");
        (first, last.map(|event| event["response"].clone()))
    };
    let path =
        first.map(|first| format!("/v1/responses/{}", first["id"].as_str().unwrap())).unwrap_or_default();
    Seen { path, finished, background: i % 5 == 2 }
}

fn chat(address: &str, input: &str) -> Seen {
    let body = json!({"messages": [{"role": "user", "content": input}], "stream": true, "store": true});
    let (_, answer) = exchange(address, "POST", "/v1/chat/completions", &body.to_string());
    let done = answer.ends_with(b"data: [DONE]\n\n");
    let events = events(&answer);
    let Some(first) = events.first() else { return Seen::default() };
    let text: String =
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    let finished = done.then(|| json!({"id": first["id"], "text": text}));
    Seen {
        path: format!("/v1/chat/completions/{}", first["id"].as_str().unwrap()),
        finished,
        background: false,
    }
}

fn crash(store: &str, rules: &std::path::Path) {
    let server = Server::start(store, rules);
    let (_, conversation) = exchange(&server.address, "POST", "/v1/conversations", "{}");
    let conversation: Value = serde_json::from_slice(&conversation).unwrap();
    let conversation = conversation["id"].as_str().unwrap().to_owned();
    let (sender, receiver) = mpsc::channel();
    for i in 0..NUM_REQUESTS {
        let (sender, address, conversation) = (sender.clone(), server.address.clone(), conversation.clone());
        std::thread::spawn(move || sender.send(request(&address, i, &conversation)).unwrap());
    }
    drop(sender);
    let mut seen: Vec<Seen> = receiver.iter().take(NUM_BEFORE_KILL).collect();
    server.kill();
    seen.extend(receiver);
    assert_eq!(seen.len(), NUM_REQUESTS);
    let num_finished = seen.iter().filter(|seen| seen.finished.is_some()).count();
    assert!((NUM_BEFORE_KILL..NUM_REQUESTS).contains(&num_finished), "{num_finished} finished");

    let server = Server::start(store, rules);
    let items = get(&server.address, &format!("/v1/conversations/{conversation}/items?limit=100")).unwrap();
    let in_conversation = |id: &Value| items["data"].as_array().unwrap().iter().any(|item| item["id"] == *id);
    let mut num_cut = 0;
    for Seen { path, finished, background } in seen {
        if path.is_empty() {
            continue; // the server died before it answered
        }
        let found = get(&server.address, &path);
        match (finished, found) {
            (Some(finished), Some(found)) if finished["text"].is_string() => {
                assert_eq!(found["choices"][0]["message"]["content"], finished["text"]);
            }
            (Some(finished), Some(found)) => {
                assert_eq!(found, finished);
                let output = finished["output"].as_array().unwrap();
                assert!(
                    finished["conversation"].is_null()
                        || output.iter().all(|item| in_conversation(&item["id"]))
                );
            }
            (Some(finished), None) => panic!("{path} is lost: {finished}"),
            (None, None) => assert!(!background, "{path} was in the background and is lost"),
            (None, Some(found)) => {
                // Stored a moment before the kill, or known to be unfinished.
                num_cut += 1;
                let whole = found["status"] == "completed"
                    && found["output"].as_array().is_some_and(|o| !o.is_empty());
                let chat = found["object"] == "chat.completion";
                assert!(background || whole || chat, "{path} is there by halves: {found}");
            }
        }
    }
    eprintln!("{num_finished} finished before the kill, all found; {num_cut} others known");
    server.kill();
}

#[test]
fn kill_9_loses_nothing_that_was_finished() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules.json");
    let texts = (0..NUM_LENGTHS)
        .map(|i| json!({"pattern": format!("length{i}"), "text": "tick ".repeat(10 + 40 * i)}));
    std::fs::write(&rules, Value::Array(texts.collect()).to_string()).unwrap();
    crash(&format!("sqlite:{}", dir.path().join("store.sqlite").display()), &rules);
    if let Some(postgres) = Postgres::start() {
        crash(&postgres.database("ossia"), &rules);
    }
}
