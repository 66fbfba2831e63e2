//! A server of the scripted runner in a process of its own, and a client that speaks plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

const RULES: &str = r#"[
    {"pattern": "ticks", "text": "TICKS", "delay_ms": 10},
    {"pattern": "flood", "text": "FLOOD"},
    {"pattern": "hi", "text": "hello there"}
]"#;

/// Ends the log of a server that has ended.
const ENDED: &str = "-- ended --\n";

/// A running server and all that it logs.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    pub(crate) dir: TempDir,
    log: Arc<Mutex<String>>,
}

/// An answer: its status, its head and its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), args)
    }

    /// Starts one that keeps its state in `store`.
    pub(crate) fn start_on(store: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ossia"));
        command.args(args_with_store(&dir, store));
        let server = Self::launch(dir, command);
        server.wait_for_log("ready: ");
        server
    }

    /// Starts one that may find files in `dir`.
    pub(crate) fn start_in(dir: TempDir, args: &[&str]) -> Self {
        let server = Self::spawn(dir, args);
        server.wait_for_log("ready: ");
        server
    }

    fn spawn(dir: TempDir, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ossia"));
        command.args(serve_args(&dir)).args(args);
        Self::launch(dir, command)
    }

    /// Starts one with a command that runs it, and waits until it listens.
    pub(crate) fn launch(dir: TempDir, mut command: Command) -> Self {
        let mut child = command.current_dir(dir.path()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(String::new()));
        let written = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                *written.lock().unwrap() += &(line + "\n");
            }
            *written.lock().unwrap() += ENDED;
        });
        let mut server = Self { child, address: String::new(), dir, log };
        let text = server.wait_for_log("listening on ");
        let address = text.split("listening on ").nth(1).unwrap().split(';').next().unwrap();
        server.address = address.to_owned();
        server
    }

    /// Everything that was logged, once it holds `text`. Hangs (and fails by the runner's time limit) if it never does.
    pub(crate) fn wait_for_log(&self, text: &str) -> String {
        loop {
            let log = self.log();
            if log.contains(text) {
                return log;
            }
            assert!(!log.ends_with(ENDED), "the server ended before it said '{text}':\n{log}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A connection.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// Asks and waits for the whole answer.
    pub(crate) fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        read_answer(&mut stream)
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.0\r\n\r\n"))
    }

    /// Asks for a chat completion.
    pub(crate) fn chat(&self, text: &str) -> Answer {
        self.send(&chat_request(text, false, ""))
    }

    /// The engine's figures.
    pub(crate) fn loads(&self) -> Value {
        serde_json::from_str(&self.get("/v1/loads").body).unwrap()
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    /// No server stays behind when a test fails.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The arguments of a server whose model answers by rule, on any port.
pub(crate) fn serve_args(dir: &TempDir) -> Vec<String> {
    args_with_store(dir, "memory")
}

fn args_with_store(dir: &TempDir, store: &str) -> Vec<String> {
    let rules = dir.path().join("rules.json");
    // No word comes twice: what repeats itself is guessed, several tokens at a time, and takes as long as it likes.
    let ticks: String = (0..200).map(|tick| format!("{} ", tick * 7919 % 100_003)).collect();
    let text = RULES.replace("TICKS", &ticks).replace("FLOOD", &"flood ".repeat(60_000));
    std::fs::write(&rules, text).unwrap();
    let model = format!("scripted:{}", rules.display());
    ["serve", &model, "--config", "none", "--store", store, "--port", "0"].map(str::to_owned).to_vec()
}

/// A chat request; `headers` are whole lines.
pub(crate) fn chat_request(text: &str, stream: bool, headers: &str) -> String {
    let body = format!(r#"{{"messages": [{{"role": "user", "content": "{text}"}}], "stream": {stream}}}"#);
    post("/v1/chat/completions", headers, &body)
}

/// A request with a body of JSON; `headers` are whole lines.
pub(crate) fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.0\r\ncontent-type: application/json\r\n{headers}content-length: {length}\r\n\r\n{body}"
    )
}

/// Everything until the connection ends.
pub(crate) fn read_answer(stream: &mut impl Read) -> Answer {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}
