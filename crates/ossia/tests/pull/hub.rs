//! A hub on loopback that cuts, damages or counts what is asked of it, plain or with TLS, and a proxy in front of it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::response::Builder;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use futures::StreamExt;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::server::TlsStream;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const REPO: &str = "owner/model";

/// What the hub holds and what was asked of it.
#[derive(Default)]
pub(crate) struct Hub {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    /// Ends the body of this file's first full download after so many bytes.
    pub(crate) cut: Mutex<Option<(String, usize)>>,
    /// Sends other bytes for this file than its hash says.
    pub(crate) damaged: Option<String>,
    /// Where the bytes of weights are, if not here.
    pub(crate) elsewhere: Option<String>,
    /// `(file, first byte asked for)` of each download.
    pub(crate) asked: Mutex<Vec<(String, usize)>>,
    /// Paths that were asked for with a token.
    pub(crate) trusted: Mutex<Vec<String>>,
}

impl Hub {
    pub(crate) fn with_checkpoint() -> Self {
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
    pub(crate) fn start(self: &Arc<Self>, runtime: &Runtime) -> String {
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = self.app();
        runtime.spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    /// Serves with a certificate for `name`, whose authority is written to `ca`.
    pub(crate) fn start_tls(self: &Arc<Self>, runtime: &Runtime, name: &str, ca: &Path) -> SocketAddr {
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (app, acceptor) = (self.app(), acceptor(name, ca));
        runtime.spawn(async move { axum::serve(TlsListener { listener, acceptor }, app).await });
        address
    }

    fn app(self: &Arc<Self>) -> Router {
        Router::new().fallback(answer).with_state(Arc::clone(self))
    }

    /// The names that were downloaded, in order.
    pub(crate) fn downloads(&self) -> Vec<String> {
        self.asked.lock().unwrap().iter().map(|(name, _)| name.clone()).collect()
    }
}

async fn answer(State(hub): State<Arc<Hub>>, method: Method, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let path = uri.path();
    if headers.contains_key("authorization") {
        hub.trusted.lock().unwrap().push(path.to_owned());
    }
    if path == format!("/api/models/{REPO}/revision/main") {
        let siblings: Vec<_> = hub.files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        return Response::new(serde_json::json!({"siblings": siblings, "sha": COMMIT}).to_string().into());
    }
    let name = path.strip_prefix(&format!("/{REPO}/resolve/main/")).unwrap_or_default();
    let Some(data) = hub.files.get(name) else {
        return Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap();
    };
    if let Some(elsewhere) = hub.elsewhere.as_ref().filter(|_| name.ends_with("safetensors")) {
        return moved(data, &format!("{elsewhere}{path}"));
    }
    if method == Method::HEAD {
        return head(data).header("content-length", data.len()).body(Body::empty()).unwrap();
    }
    let range = headers["range"].to_str().unwrap();
    let start: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    let range = format!("bytes {start}-{}/{}", data.len() - 1, data.len());
    let answer = head(data).status(StatusCode::PARTIAL_CONTENT).header("content-range", range);
    answer.body(body(&hub, name, start)).unwrap()
}

/// What the hub says of each file.
fn head(data: &[u8]) -> Builder {
    Response::builder()
        .header("x-repo-commit", COMMIT)
        .header("etag", format!("\"{}\"", hex(&Sha256::digest(data))))
}

/// As the hub answers for large files: what it knows of them, and where they are.
fn moved(data: &[u8], location: &str) -> Response<Body> {
    let answer = Response::builder().status(StatusCode::FOUND).header("location", location);
    let answer = answer.header("x-repo-commit", COMMIT).header("x-linked-size", data.len());
    let hash = format!("\"{}\"", hex(&Sha256::digest(data)));
    answer.header("x-linked-etag", hash).header("etag", "\"of the redirect\"").body(Body::empty()).unwrap()
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
        tokio::time::sleep(Duration::from_millis(300)).await;
        Err(std::io::Error::other("cut"))
    };
    futures::stream::once(async { Ok(first) }).chain(futures::stream::once(cut))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A certificate for `name` by an authority that is written to `ca`.
fn acceptor(name: &str, ca: &Path) -> TlsAcceptor {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(ca, authority.self_signed(&ca_key).unwrap().pem()).unwrap();
    let signed = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let signed = signed.signed_by(&key, &Issuer::new(authority, ca_key)).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![signed.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

struct TlsListener {
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<tokio::net::TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = self.listener.accept().await.unwrap();
            // A client that does not trust us goes away in the handshake.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// An HTTP proxy that leads every tunnel to `target` and notes where it was said to lead.
pub(crate) struct Proxy {
    pub(crate) url: String,
    pub(crate) tunnels: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let tunnels = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&tunnels);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, noted) = (client.unwrap(), Arc::clone(&noted));
                std::thread::spawn(move || tunnel(client, target, &noted));
            }
        });
        Self { url, tunnels }
    }
}

fn tunnel(mut client: TcpStream, target: SocketAddr, noted: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if client.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    noted.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let mut server = TcpStream::connect(target).unwrap();
    let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        // A client that went away in the handshake would keep the hub waiting.
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let _ = std::io::copy(&mut server, &mut client);
}
