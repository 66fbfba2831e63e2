//! Keys of a provider and credentials from strangers: a token that nobody signed opens nothing, and no text is fatal.
#![no_main]

mod server;
mod tokenizer;

use axum::body::Body;
use axum::http::{HeaderValue, Request};
use libfuzzer_sys::fuzz_target;
use ossia_server::TokenRules;
use server::SERVER;

/// A set of keys for inputs that bring none: RSA, P-256 and Ed25519, of which nobody has the private halves.
const JWKS: &str = r#"{"keys": [
    {"kty": "EC", "kid": "ec", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
    {"kty": "RSA", "kid": "rsa", "e": "AQAB", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"}
]}"#;

/// Ends the set of keys; no UTF-8 has it.
const SEPARATOR: u8 = 0xFF;

fuzz_target!(|data: &[u8]| {
    let (jwks, token) = match data.iter().position(|&byte| byte == SEPARATOR) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (JWKS.as_bytes(), data),
    };
    let jwks = String::from_utf8_lossy(jwks);
    let rules = TokenRules {
        issuer: "https://issuer.example".to_owned(),
        audience: "ossia".to_owned(),
        tenant_claim: "sub".to_owned(),
        ..TokenRules::default()
    };
    if SERVER.access.set_tokens(rules.clone(), &jwks).is_err() {
        SERVER.access.set_tokens(rules, JWKS).expect("keys that are good");
    }
    let Ok(header) = HeaderValue::from_bytes(&[b"Bearer ", token].concat()) else { return };
    let request = Request::builder().uri("/v1/models").header("authorization", header).body(Body::empty());
    let (status, answer) = SERVER.answer(request.expect("a request"));
    // A key of the input's own may have signed the input's own token, but no fuzzer finds that.
    assert_eq!(status, 401, "{}", String::from_utf8_lossy(&answer));
});
