//! API keys: what one looks like, what is kept of it, and how it is found without telling by the time it takes.

use std::collections::HashSet;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::OsRng;
use chacha20poly1305::aead::rand_core::RngCore;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::{ConditionallySelectable, ConstantTimeEq};

use super::TokenLimits;

/// How every key begins, so that scanners for leaked secrets know one.
const SECRET_PREFIX: &str = "sk-ossia-";
const HASH_PREFIX: &str = "sha256:";

/// A key as it is kept: all but the key itself, of which there is a hash.
///
/// One SHA-256 is enough: a key is 256 random bits, which nobody finds by guessing, however fast.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    /// Names the key in logs; unique.
    pub id: String,
    /// Whose key it is, for people.
    pub name: String,
    /// `sha256:` and 64 hexadecimal digits, see [`hash_of`].
    pub hash: String,
    /// Who shares state, cached prefixes and a share of the engine with this key; its id if absent.
    pub tenant: Option<String>,
    /// Most requests that generate, per minute.
    pub requests_per_minute: Option<u32>,
    /// Most tokens, prompts and answers together, per minute.
    pub tokens_per_minute: Option<u64>,
    /// Most requests that generate at the same time.
    pub max_concurrent: Option<u32>,
    /// Names of models that may be asked; all if empty.
    #[serde(default)]
    pub models: Vec<String>,
    /// Lower is served first. A request can make itself less urgent than its key, never more.
    #[serde(default)]
    pub priority: i32,
    /// The last day on which the key is good, in UTC, `YYYY-MM-DD`.
    pub expires: Option<String>,
    /// Whether it also opens `/metrics` and `/v1/loads`, which show all tenants.
    #[serde(default)]
    pub admin: bool,
}

/// Why keys cannot be put in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Two keys of the same id, or of the same hash.
    #[error("key '{id}' is there twice")]
    Twice {
        /// The key's id.
        id: String,
    },
    /// A field makes no sense.
    #[error("key '{id}': {field} is '{found}', expected {expected}")]
    Field {
        /// The key's id.
        id: String,
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// A fresh key, to be shown once.
pub fn new_secret() -> String {
    let mut bytes = [0; 32];
    OsRng.fill_bytes(&mut bytes);
    format!("{SECRET_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
}

/// What is kept of a key.
pub fn hash_of(secret: &str) -> String {
    let hex: String = digest(secret).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{HASH_PREFIX}{hex}")
}

fn digest(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl KeySpec {
    /// What stands for the holder of a token.
    pub(super) fn of_subject(name: &str, tenant: String, limits: TokenLimits) -> Self {
        Self {
            id: format!("sub:{name}"),
            name: name.to_owned(),
            hash: String::new(),
            tenant: Some(tenant),
            requests_per_minute: limits.requests_per_minute,
            tokens_per_minute: limits.tokens_per_minute,
            max_concurrent: limits.max_concurrent,
            models: Vec::new(),
            priority: 0,
            expires: None,
            admin: false,
        }
    }

    /// Who shares state with this key.
    pub fn tenant(&self) -> &str {
        self.tenant.as_deref().unwrap_or(&self.id)
    }

    /// Whether the key's last day is before `today`.
    pub fn has_expired(&self, today: &str) -> bool {
        self.expires.as_deref().is_some_and(|last| last < today)
    }

    fn check(&self) -> Result<[u8; 32], KeyError> {
        let refuse = |field, found: &str, expected| {
            Err(KeyError::Field { id: self.id.clone(), field, found: found.to_owned(), expected })
        };
        if self.id.is_empty() || self.tenant() == "" {
            return refuse("id", &self.id, "an id and a tenant that are not empty");
        }
        if let Some(date) = &self.expires
            && !is_date(date)
        {
            return refuse("expires", date, "a date such as 2027-01-31");
        }
        for (field, limit) in [
            ("requests_per_minute", self.requests_per_minute.map(u64::from)),
            ("tokens_per_minute", self.tokens_per_minute),
            ("max_concurrent", self.max_concurrent.map(u64::from)),
        ] {
            if limit == Some(0) {
                return refuse(field, "0", "at least 1, or nothing for no limit");
            }
        }
        match self.hash.strip_prefix(HASH_PREFIX).and_then(bytes) {
            Some(hash) => Ok(hash),
            None => refuse("hash", &self.hash, "sha256: and 64 hexadecimal digits"),
        }
    }
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else { return false };
    let number = |part: &str, len| (part.len() == len).then(|| part.parse::<u32>().ok()).flatten();
    number(year, 4).is_some()
        && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
        && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok();
    (0..32).map(byte).collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// All keys in force.
pub(super) struct KeyRing(Vec<([u8; 32], Arc<KeySpec>)>);

impl KeyRing {
    pub(super) fn new(specs: Vec<KeySpec>) -> Result<Self, KeyError> {
        let (mut ids, mut hashes) = (HashSet::new(), HashSet::new());
        let mut keys = Vec::with_capacity(specs.len());
        for spec in specs {
            let hash = spec.check()?;
            if !ids.insert(spec.id.clone()) || !hashes.insert(hash) {
                return Err(KeyError::Twice { id: spec.id });
            }
            keys.push((hash, Arc::new(spec)));
        }
        Ok(Self(keys))
    }

    /// The key that was shown. Every hash is compared, each in constant time: how long this takes tells neither
    /// whether a key exists nor how much of it was right.
    pub(super) fn find(&self, secret: &str) -> Option<&Arc<KeySpec>> {
        let shown = digest(secret);
        let mut found = u64::MAX;
        for (idx, (hash, _)) in (0u64..).zip(&self.0) {
            found.conditional_assign(&idx, shown.ct_eq(hash));
        }
        usize::try_from(found).ok().and_then(|idx| self.0.get(idx)).map(|(_, spec)| spec)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn spec(id: &str, secret: &str) -> KeySpec {
        KeySpec {
            id: id.to_owned(),
            name: id.to_owned(),
            hash: hash_of(secret),
            tenant: None,
            requests_per_minute: None,
            tokens_per_minute: None,
            max_concurrent: None,
            models: Vec::new(),
            priority: 0,
            expires: None,
            admin: false,
        }
    }

    #[test]
    fn a_key_is_found_by_itself_only() {
        let secrets = [(); 20].map(|()| new_secret());
        let specs = (0..20).map(|idx| spec(&format!("k{idx}"), &secrets[idx])).collect();
        let ring = KeyRing::new(specs).expect("a ring");
        for (idx, secret) in secrets.iter().enumerate() {
            assert_eq!(ring.find(secret).map(|spec| spec.id.clone()), Some(format!("k{idx}")));
            assert!(ring.find(&secret[..secret.len() - 1]).is_none());
        }
        assert!(ring.find("").is_none() && ring.find(&new_secret()).is_none());
        assert!(KeyRing::new(Vec::new()).expect("an empty ring").find("").is_none());
    }

    #[test]
    fn fresh_keys_are_long_and_differ() {
        let (one, other) = (new_secret(), new_secret());
        assert!(one != other && one.starts_with("sk-ossia-") && one.len() == 9 + 43, "{one}");
    }

    #[test]
    fn a_key_is_good_through_its_last_day() {
        let mut key = spec("k", "s");
        key.expires = Some("2026-11-25".to_owned());
        assert_eq!(
            ["2026-11-24", "2026-11-25", "2026-11-26"].map(|day| key.has_expired(day)),
            [false, false, true]
        );
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        type Case = (&'static str, fn(&mut KeySpec));
        let cases: [Case; 6] = [
            ("hash is 'sha256:12'", |key| key.hash = "sha256:12".to_owned()),
            ("hash is", |key| key.hash = key.hash.replace("sha256:", "md5:")),
            ("expires is 'soon'", |key| key.expires = Some("soon".to_owned())),
            ("expires is '2026-13-01'", |key| key.expires = Some("2026-13-01".to_owned())),
            ("max_concurrent is '0'", |key| key.max_concurrent = Some(0)),
            ("an id", |key| key.tenant = Some(String::new())),
        ];
        for (expected, change) in cases {
            let mut key = spec("k", "s");
            change(&mut key);
            let error = KeyRing::new(vec![key]).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(expected), "{error}");
        }
        let twice = vec![spec("a", "s"), spec("b", "s")];
        assert_eq!(KeyRing::new(twice).err(), Some(KeyError::Twice { id: "b".to_owned() }));
    }
}
