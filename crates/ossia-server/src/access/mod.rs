//! Who asks, and how much they may: API keys, rate limits, tenants.
//!
//! A layer finds the [`Caller`] of each request ([`Access::identify`]); a handler that generates asks it for an
//! [`Admission`], which counts the request and its tokens for as long as any of its turns lives.

mod admission;
mod bucket;
mod caller;
mod jwt;
mod keys;
pub(crate) mod layer;
mod limits;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

pub(crate) use admission::Admission;
pub(crate) use caller::Caller;
pub use jwt::{JwksError, TokenLimits, TokenRules};
pub use keys::{KeyError, KeySpec, hash_of, new_secret};

use crate::clock;
use crate::error::ApiError;
use crate::store::Tenant;
use caller::KeyHolder;
use jwt::TokenChecker;
use keys::KeyRing;
use limits::Meters;

/// The keys in force and what was used of each. Clones share everything.
#[derive(Clone, Default)]
pub struct Access(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// `None` where everybody may do everything.
    ring: RwLock<Option<Arc<KeyRing>>>,
    /// The tokens that are good beside or instead of keys.
    tokens: RwLock<Option<Arc<TokenChecker>>>,
    /// By the id of the key; what was used outlives a change of the keys.
    meters: Mutex<HashMap<String, Arc<Meters>>>,
    /// Numbers of tenants, as the engine knows them.
    tenants: Mutex<HashMap<Tenant, u32>>,
}

impl Access {
    /// Puts these keys in force, in place of those before. From now on every request needs one.
    ///
    /// # Errors
    /// The first key that makes no sense; the keys before stay in force.
    pub fn set_keys(&self, specs: Vec<KeySpec>) -> Result<(), KeyError> {
        let ring = Arc::new(KeyRing::new(specs)?);
        *self.0.ring.write().unwrap_or_else(PoisonError::into_inner) = Some(ring);
        Ok(())
    }

    /// Accepts tokens of an OpenID provider that has these keys, a JSON Web Key Set.
    ///
    /// # Errors
    /// The text is no set of keys that can be used; those before stay in force.
    pub fn set_tokens(&self, rules: TokenRules, jwks: &str) -> Result<(), JwksError> {
        let checker = Arc::new(TokenChecker::new(rules, jwks)?);
        *self.0.tokens.write().unwrap_or_else(PoisonError::into_inner) = Some(checker);
        Ok(())
    }

    /// Whether requests need a key or a token.
    pub fn is_required(&self) -> bool {
        self.ring().is_some() || self.tokens().is_some()
    }

    /// Who sent a request with these headers.
    ///
    /// # Errors
    /// 401 if there has to be a key and there is none, or one that is unknown or has expired.
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        let (ring, tokens) = (self.ring(), self.tokens());
        if ring.is_none() && tokens.is_none() {
            return Ok(Caller::anybody());
        }
        let secret = bearer(headers).ok_or_else(ApiError::no_key)?;
        if let Some(tokens) = tokens.filter(|_| TokenChecker::is_token(secret)) {
            return Ok(self.caller_of(&Arc::new(tokens.check(secret)?)));
        }
        let ring = ring.ok_or_else(ApiError::wrong_key)?;
        let spec = ring.find(secret).ok_or_else(ApiError::wrong_key)?;
        if spec.has_expired(&clock::today()) {
            return Err(ApiError::expired_key(&spec.id));
        }
        Ok(self.caller_of(spec))
    }

    fn caller_of(&self, spec: &Arc<KeySpec>) -> Caller {
        let tenant = Tenant(spec.tenant().into());
        let meters = Arc::clone(lock(&self.0.meters).entry(spec.id.clone()).or_default());
        let number = {
            let mut tenants = lock(&self.0.tenants);
            let next = tenants.len() as u32 + 1; // 0 is everybody on a server without keys
            *tenants.entry(tenant.clone()).or_insert(next)
        };
        Caller::holder(KeyHolder { tenant, number, spec: Arc::clone(spec), meters })
    }

    fn tokens(&self) -> Option<Arc<TokenChecker>> {
        self.0.tokens.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ring(&self) -> Option<Arc<KeyRing>> {
        self.0.ring.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The credential in `Authorization: Bearer ...`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, credential) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let credential = credential.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !credential.is_empty()).then_some(credential)
}

/// No code that holds a lock here can leave a collection half-changed, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
