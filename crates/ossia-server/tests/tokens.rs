//! Tokens of an OpenID provider: which are good, and what the others are told.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::TestServer;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ossia_engine::EngineConfig;
use ossia_server::{Access, TokenLimits, TokenRules};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

/// A key of a provider: what signs, and its public half as a JWK.
struct Key {
    private: EncodingKey,
    public: Value,
    public_bytes: Vec<u8>,
}

fn key(id: &str) -> Key {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap();
    let public_bytes = pair.public_key().as_ref().to_vec();
    let x = URL_SAFE_NO_PAD.encode(&public_bytes);
    let public = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": id, "x": x});
    Key { private: EncodingKey::from_ed_der(document.as_ref()), public, public_bytes }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({"iss": "https://login.example", "aud": "ossia", "sub": "ann", "team": "lab", "exp": now() + 600})
}

fn token(key: &Key, id: Option<&str>, claims: &Value) -> String {
    let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
    encode(&header, claims, &key.private).unwrap()
}

fn rules() -> TokenRules {
    TokenRules {
        issuer: "https://login.example".to_owned(),
        audience: "ossia".to_owned(),
        tenant_claim: "team".to_owned(),
        ..TokenRules::default()
    }
}

fn server(keys: &[&Key]) -> (TestServer, Access) {
    let access = Access::default();
    let keys: Vec<&Value> = keys.iter().map(|key| &key.public).collect();
    access.set_tokens(rules(), &json!({"keys": keys}).to_string()).unwrap();
    (TestServer::with_access("[]", &access, EngineConfig::default()), access)
}

#[tokio::test]
async fn a_good_token_opens_and_its_claim_is_the_tenant() {
    let (one, two) = (key("1"), key("2"));
    let (server, _) = server(&[&one, &two]);
    let ann = token(&two, Some("2"), &claims());
    let response = server.post_as(&ann, "/v1/responses", &json!({"input": "hi"})).await;
    assert_eq!(response.status, 200, "{}", response.body);
    let path = format!("/v1/responses/{}", response.body["id"].as_str().unwrap());
    let with = |field: &str, value: &str| {
        let mut claims = claims();
        claims[field] = value.into();
        token(&one, Some("1"), &claims)
    };
    assert_eq!(server.get_as(&with("sub", "bob"), &path).await.status, 200, "the same team");
    assert_eq!(server.get_as(&with("team", "other"), &path).await.status, 404);
    assert_eq!(server.get_as(&ann, "/v1/loads").await.status, 403);
}

#[tokio::test]
async fn every_other_token_is_refused_and_told_why() {
    let (good, other) = (key("1"), key("1"));
    let (server, _) = server(&[&good]);
    let with = |field: &str, value: Value| {
        let mut claims = claims();
        claims[field] = value;
        token(&good, Some("1"), &claims)
    };
    let whole = token(&good, Some("1"), &claims());
    let (head, signature) = (whole.rsplit_once('.').unwrap().0, whole.rsplit_once('.').unwrap().1);
    let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let payload = whole.split('.').nth(1).unwrap();
    let shared = Header { kid: Some("1".to_owned()), ..Header::new(Algorithm::HS256) };
    let forged = encode(&shared, &claims(), &EncodingKey::from_secret(&good.public_bytes)).unwrap();
    let cases = [
        ("expired", with("exp", json!(now() - 120))),
        ("not yet good", with("nbf", json!(now() + 600))),
        ("another issuer", with("iss", json!("https://evil.example"))),
        ("another audience", with("aud", json!("mail"))),
        ("no subject", with("sub", Value::Null)),
        ("no tenant", with("team", json!(""))),
        ("another's key", token(&other, Some("1"), &claims())),
        ("an unknown key", token(&good, Some("2"), &claims())),
        ("the public key as a secret", forged),
        ("unsigned", format!("{unsigned}.{payload}.")),
        ("no signature", format!("{head}.")),
        (
            "another's claims",
            format!("{}.{}.{signature}", head.split('.').next().unwrap(), URL_SAFE_NO_PAD.encode("{}")),
        ),
        ("garbage", "a.b.c".to_owned()),
    ];
    for (what, token) in cases {
        let answer = server.get_as(&token, "/v1/models").await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.body);
        assert_eq!(answer.body["error"]["code"], "invalid_api_key", "{what}");
    }
    assert_eq!(server.get_as(&whole, "/v1/models").await.status, 200);
    assert_eq!(server.get_as("sk-ossia-x", "/v1/models").await.status, 401);
}

#[tokio::test]
async fn keys_of_the_provider_change_and_one_alone_needs_no_name() {
    let (old, new) = (key("old"), key("new"));
    let (server, access) = server(&[&old]);
    assert_eq!(server.get_as(&token(&old, None, &claims()), "/v1/models").await.status, 200);
    access.set_tokens(rules(), &json!({"keys": [new.public]}).to_string()).unwrap();
    assert_eq!(server.get_as(&token(&old, Some("old"), &claims()), "/v1/models").await.status, 401);
    assert_eq!(server.get_as(&token(&new, Some("new"), &claims()), "/v1/models").await.status, 200);
    for wrong in ["", "{}", "{\"keys\": []}", r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#] {
        assert!(access.set_tokens(rules(), wrong).is_err(), "{wrong}");
    }
    assert_eq!(server.get_as(&token(&new, Some("new"), &claims()), "/v1/models").await.status, 200);
}

#[tokio::test]
async fn holders_have_limits_each_of_their_own() {
    let key = key("1");
    let access = Access::default();
    let limits = TokenLimits { requests_per_minute: Some(2), ..TokenLimits::default() };
    let keys = json!({"keys": [key.public]}).to_string();
    access.set_tokens(TokenRules { limits, ..rules() }, &keys).unwrap();
    let server = TestServer::with_access("[]", &access, EngineConfig::default());
    let of = |name: &str| {
        let mut claims = claims();
        claims["sub"] = name.into();
        token(&key, None, &claims)
    };
    let ask = async |name: &str| server.post_as(&of(name), "/v1/responses", &json!({"input": "hi"})).await;
    let first = ask("ann").await;
    assert_eq!(
        (first.status, &first.headers["x-ratelimit-limit-requests"]),
        (StatusCode::OK, &"2".parse().unwrap())
    );
    assert_eq!(ask("ann").await.status, 200);
    let refused = ask("ann").await;
    assert_eq!(refused.status, 429, "{}", refused.body);
    assert_eq!(refused.body["error"]["code"], "rate_limit_exceeded");
    assert_eq!(ask("bob").await.status, 200, "of the same team, but with a limit of his own");
}
