//! `ossia pull` against a hub on loopback: complete, resumed after a cut, refused when damaged, and offline.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use futures::StreamExt;
use sha2::{Digest, Sha256};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const REPO: &str = "owner/model";

/// What the fake hub holds and what was asked of it.
#[derive(Default)]
struct Hub {
    files: BTreeMap<String, Vec<u8>>,
    /// Ends the body of this file's first full download after so many bytes.
    cut: Mutex<Option<(String, usize)>>,
    /// Sends other bytes for this file than its hash says.
    damaged: Option<String>,
    /// `(file, first byte asked for)` of each download.
    asked: Mutex<Vec<(String, usize)>>,
}

impl Hub {
    fn with_checkpoint() -> Self {
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        let files = [
            ("config.json", b"{}".to_vec()),
            ("tokenizer.json", b"{\"t\":1}".to_vec()),
            ("model.safetensors.index.json", index.into()),
            ("model-1.safetensors", vec![1; 300_000]),
            ("model-2.safetensors", vec![2; 200_000]),
            ("original/model.safetensors", vec![3; 10]),
            ("metal/model.bin", vec![4; 10]),
        ];
        Self {
            files: files.into_iter().map(|(name, data)| (name.to_owned(), data)).collect(),
            ..Self::default()
        }
    }

    /// Serves on a free loopback port; gives the endpoint.
    fn start(self: &Arc<Self>, runtime: &tokio::runtime::Runtime) -> String {
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(Arc::clone(self));
        runtime.spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }
}

async fn answer(State(hub): State<Arc<Hub>>, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let path = uri.path();
    if path == format!("/api/models/{REPO}/revision/main") {
        let siblings: Vec<_> = hub.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        return Response::new(serde_json::json!({"siblings": siblings, "sha": COMMIT}).to_string().into());
    }
    let name = path.strip_prefix(&format!("/{REPO}/resolve/main/")).unwrap_or_default();
    let Some(data) = hub.files.get(name) else {
        return Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    };
    let range = headers["range"].to_str().unwrap().strip_prefix("bytes=").unwrap().to_owned();
    let (start, end) = range.split_once('-').unwrap();
    let start: usize = start.parse().unwrap();
    let end = end.parse().map_or(data.len(), |last: usize| (last + 1).min(data.len()));
    Response::builder()
        .status(StatusCode::PARTIAL_CONTENT)
        .header("x-repo-commit", COMMIT)
        .header("etag", format!("\"{}\"", hex(&Sha256::digest(data))))
        .header("content-range", format!("bytes {start}-{}/{}", end - 1, data.len()))
        .body(if end - start <= 1 {
            Bytes::copy_from_slice(&data[start..end]).into()
        } else {
            body(&hub, name, start)
        })
        .unwrap()
}

/// The rest of a file from `start`, cut or damaged as the hub was told.
fn body(hub: &Hub, name: &str, start: usize) -> Body {
    hub.asked.lock().unwrap().push((name.to_owned(), start));
    let mut data = hub.files[name][start..].to_vec();
    if hub.damaged.as_deref() == Some(name) {
        data[0] ^= 1;
    }
    match hub.cut.lock().unwrap().take_if(|(file, _)| file == name) {
        None => data.into(),
        Some((_, len)) => Body::from_stream(cut_after(Bytes::copy_from_slice(&data[..len]))),
    }
}

/// `first`, and when it has had the time to arrive, an error that ends the connection.
fn cut_after(first: Bytes) -> impl futures::Stream<Item = std::io::Result<Bytes>> {
    let cut = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        Err(std::io::Error::other("cut"))
    };
    futures::stream::once(async { Ok(first) }).chain(futures::stream::once(cut))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn pull(endpoint: &str, home: &Path, offline: bool) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ossia"));
    command.args(["pull", REPO]).env("HF_HOME", home).env("HF_ENDPOINT", endpoint);
    for name in ["HF_TOKEN", "HF_HUB_CACHE", "OSSIA_OFFLINE", "http_proxy", "https_proxy", "all_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.env("HF_HUB_OFFLINE", if offline { "1" } else { "0" }).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn only_the_needed_files_come_and_a_second_pull_asks_for_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (hub, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    let endpoint = hub.start(&runtime);
    let first = pull(&endpoint, home.path(), false);
    assert!(first.status.success(), "{}", stderr(&first));
    let snapshot = String::from_utf8(first.stdout).unwrap().trim().to_owned();
    let shard = std::fs::read(Path::new(&snapshot).join("model-2.safetensors")).unwrap();
    assert_eq!(shard, hub.files["model-2.safetensors"]);
    let asked = hub.asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 5, "{asked:?}");
    assert!(asked.iter().all(|(name, _)| !name.contains('/')), "{asked:?}");

    let offline = pull("http://127.0.0.1:9", home.path(), true);
    assert!(offline.status.success(), "{}", stderr(&offline));
    assert_eq!(String::from_utf8(offline.stdout).unwrap().trim(), snapshot);
    assert_eq!(hub.asked.lock().unwrap().len(), 5);
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (hub, home) = (Arc::new(Hub::with_checkpoint()), tempfile::tempdir().unwrap());
    *hub.cut.lock().unwrap() = Some(("model-1.safetensors".to_owned(), 100_000));
    let output = pull(&hub.start(&runtime), home.path(), false);
    assert!(output.status.success(), "{}", stderr(&output));
    let resumed =
        hub.asked.lock().unwrap().iter().any(|(name, start)| name == "model-1.safetensors" && *start > 0);
    assert!(resumed, "{:?}", hub.asked.lock().unwrap());
}

#[test]
fn a_damaged_file_is_named_and_not_kept() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut hub = Hub::with_checkpoint();
    hub.damaged = Some("model-2.safetensors".to_owned());
    let (hub, home) = (Arc::new(hub), tempfile::tempdir().unwrap());
    let endpoint = hub.start(&runtime);
    for _ in 0..2 {
        let output = pull(&endpoint, home.path(), false);
        assert!(!output.status.success());
        let message = stderr(&output);
        assert!(message.contains("model-2.safetensors") && message.contains("hash mismatch"), "{message}");
    }
}

#[test]
fn offline_without_a_cache_says_so() {
    let home = tempfile::tempdir().unwrap();
    let output = pull("http://127.0.0.1:9", home.path(), true);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("HF_HUB_OFFLINE"), "{}", stderr(&output));
}
