//! Bearer tokens of an OpenID provider, as an alternative to API keys: signed JWTs, checked against the provider's keys.

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::KeySpec;
use crate::error::ApiError;

/// Signatures by a private key. A shared secret (HS256) is none: whoever checks could sign as well.
const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];
/// By how much clocks may differ, in seconds.
const LEEWAY_SECONDS: u64 = 60;

/// Which tokens are good, what they say, and how much their holders may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// `iss` of a good token.
    pub issuer: String,
    /// `aud` of a good token, or one of them.
    pub audience: String,
    /// The claim that names the tenant; `sub` makes everybody a tenant.
    pub tenant_claim: String,
    /// What each holder may.
    pub limits: TokenLimits,
}

/// What the holder of tokens may, counted by subject; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenLimits {
    /// Most requests that generate, per minute.
    pub requests_per_minute: Option<u32>,
    /// Most tokens, prompts and answers together, per minute.
    pub tokens_per_minute: Option<u64>,
    /// Most requests that generate at the same time.
    pub max_concurrent: Option<u32>,
}

/// Why the keys of a provider cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Not a set of keys.
    #[error("expected a JSON Web Key Set, {{\"keys\": [...]}}")]
    Json(#[from] serde_json::Error),
    /// No key of a kind that we check.
    #[error("there is no key for RS, PS, ES or EdDSA signatures in it")]
    NoKey,
}

/// Checks tokens.
pub(super) struct TokenChecker {
    rules: TokenRules,
    keys: JwkSet,
}

impl TokenChecker {
    pub(super) fn new(rules: TokenRules, jwks: &str) -> Result<Self, JwksError> {
        let keys: JwkSet = serde_json::from_str(jwks)?;
        let is_usable =
            |key: &Jwk| !matches!(key.algorithm, jsonwebtoken::jwk::AlgorithmParameters::OctetKey(_));
        let keys = JwkSet { keys: keys.keys.into_iter().filter(is_usable).collect() };
        if keys.keys.is_empty() { Err(JwksError::NoKey) } else { Ok(Self { rules, keys }) }
    }

    /// Whether a credential looks like a token at all, rather than like a key.
    pub(super) fn is_token(credential: &str) -> bool {
        credential.matches('.').count() == 2
    }

    /// Whom the token is of, as if by a key.
    ///
    /// # Errors
    /// 401 saying what is wrong with it.
    pub(super) fn check(&self, token: &str) -> Result<KeySpec, ApiError> {
        let refuse = |reason: String| ApiError::wrong_token(&reason);
        let header = decode_header(token).map_err(|error| refuse(error.to_string()))?;
        if !ALGORITHMS.contains(&header.alg) {
            return Err(refuse(format!("its algorithm {:?} is not accepted", header.alg)));
        }
        let key = self
            .key(header.kid.as_deref())
            .ok_or_else(|| refuse("it is signed with an unknown key".to_owned()))?;
        let key = DecodingKey::from_jwk(key).map_err(|error| refuse(error.to_string()))?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&self.rules.issuer]);
        validation.set_audience(&[&self.rules.audience]);
        let claims = decode::<Map<String, Value>>(token, &key, &validation);
        self.holder(&claims.map_err(|error| refuse(error.to_string()))?.claims)
    }

    /// The key of this id; a provider with one key need not name it.
    fn key(&self, id: Option<&str>) -> Option<&Jwk> {
        match id {
            Some(id) => self.keys.find(id),
            None => self.keys.keys.first().filter(|_| self.keys.keys.len() == 1),
        }
    }

    fn holder(&self, claims: &Map<String, Value>) -> Result<KeySpec, ApiError> {
        let text = |claim: &str| {
            let text = claims.get(claim).and_then(Value::as_str).filter(|text| !text.is_empty());
            text.map(str::to_owned)
                .ok_or_else(|| ApiError::wrong_token(&format!("it has no claim '{claim}'")))
        };
        Ok(KeySpec::of_subject(&text("sub")?, text(&self.rules.tenant_claim)?, self.rules.limits))
    }
}
