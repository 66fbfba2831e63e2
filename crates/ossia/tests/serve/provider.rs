//! An OpenID provider whose keys are at a URL, on loopback: they are fetched, they change, and they cannot be fetched.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::harness::Server;

const ISSUER: &str = "https://login.example";
/// In the URL, and nowhere else.
const PASSWORD: &str = "ocarina4711";

/// What the provider answers when it is asked for its keys.
type Said = Arc<Mutex<(StatusCode, String)>>;

/// A provider that runs for as long as its runtime.
struct Provider {
    said: Said,
    address: std::net::SocketAddr,
    _runtime: Runtime,
}

impl Provider {
    fn start(keys: &[&Key]) -> Self {
        let said = Said::new(Mutex::new((StatusCode::OK, set_of(keys))));
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().route("/jwks.json", get(answer)).with_state(Arc::clone(&said));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { said, address, _runtime: runtime }
    }

    fn says(&self, status: StatusCode, body: String) {
        *self.said.lock().unwrap() = (status, body);
    }
}

async fn answer(State(said): State<Said>) -> (StatusCode, String) {
    said.lock().unwrap().clone()
}

/// A key of the provider.
struct Key {
    id: &'static str,
    private: EncodingKey,
    public: Value,
}

impl Key {
    fn new(id: &'static str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        let public = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": id, "x": x});
        Self { id, private: EncodingKey::from_ed_der(document.as_ref()), public }
    }

    fn token(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let claims = json!({"iss": ISSUER, "aud": "ossia", "sub": "ann", "exp": now + 600});
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::EdDSA) };
        encode(&header, &claims, &self.private).unwrap()
    }
}

fn set_of(keys: &[&Key]) -> String {
    json!({"keys": keys.iter().map(|key| &key.public).collect::<Vec<_>>()}).to_string()
}

fn start(provider: &Provider) -> Server {
    let url = format!("http://ossia:{PASSWORD}@{}/jwks.json", provider.address);
    Server::start(&[
        "--oidc-issuer",
        ISSUER,
        "--oidc-audience",
        "ossia",
        "--oidc-jwks",
        &url,
        "--oidc-refresh",
        "100ms",
    ])
}

fn status(server: &Server, key: &Key) -> u16 {
    let token = key.token();
    server.send(&format!("GET /v1/models HTTP/1.0\r\nauthorization: Bearer {token}\r\n\r\n")).status
}

#[test]
fn keys_at_a_url_are_fetched_and_change_while_the_server_runs() {
    let (old, new) = (Key::new("old"), Key::new("new"));
    let provider = Provider::start(&[&old]);
    let server = start(&provider);
    assert_eq!((status(&server, &old), status(&server, &new)), (200, 401));
    provider.says(StatusCode::OK, set_of(&[&old, &new]));
    while status(&server, &new) != 200 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(status(&server, &old), 200);
    provider.says(StatusCode::OK, set_of(&[&new]));
    while status(&server, &old) != 401 {
        std::thread::sleep(Duration::from_millis(20));
    }
    // What cannot be fetched or makes no sense changes nothing, and is said.
    for (status_said, body) in
        [(StatusCode::INTERNAL_SERVER_ERROR, String::new()), (StatusCode::OK, "<html>".to_owned())]
    {
        let num_before = server.log().matches("stay as they were").count();
        provider.says(status_said, body);
        while server.log().matches("stay as they were").count() < num_before + 2 {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!((status(&server, &old), status(&server, &new)), (401, 200));
    }
    assert!(!server.log().contains(PASSWORD), "{}", server.log());
}
