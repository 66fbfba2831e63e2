//! Sealing what a client carries for us: reasoning that it may not change and need not read.
//!
//! A sealed text is `ossia1.` and, in base64 for URLs, a random nonce and the ChaCha20-Poly1305 ciphertext. What it
//! is and whose it is are authenticated with it, so that a text sealed for one tenant opens for no other.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, AeadCore, KeyInit, OsRng, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};

use crate::store::Tenant;

const PREFIX: &str = "ossia1.";
const NONCE_LEN: usize = 12;

/// The chain of thought of a reasoning item.
pub(crate) const REASONING: &str = "reasoning";
/// The summary of a compacted conversation.
pub(crate) const COMPACTION: &str = "compaction";

/// A server's key of 32 bytes. Whoever has it can read and forge what the server seals.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey([u8; 32]);

/// Seals and opens.
#[derive(Clone)]
pub(crate) struct Sealer(ChaCha20Poly1305);

/// The text was not sealed by this server for this tenant and this use, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the encrypted content could not be verified")]
pub(crate) struct Broken;

impl SealingKey {
    /// A fresh key.
    pub fn random() -> Self {
        Self(ChaCha20Poly1305::generate_key(&mut OsRng).into())
    }

    /// The key of 64 hexadecimal digits, as [`SealingKey::to_hex`] writes it; `None` for anything else.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits: Option<Vec<u32>> = text.trim().chars().map(|digit| digit.to_digit(16)).collect();
        let bytes = digits?.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect::<Vec<_>>();
        let odd = text.trim().len() % 2 == 1;
        bytes.try_into().ok().filter(|_| !odd).map(Self)
    }

    /// 64 hexadecimal digits.
    pub fn to_hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

impl Sealer {
    pub(crate) fn new(key: &SealingKey) -> Self {
        Self(ChaCha20Poly1305::new(Key::from_slice(&key.0)))
    }

    /// Seals `text` as a `kind` of thing.
    pub(crate) fn seal(&self, tenant: &Tenant, kind: &str, text: &str) -> String {
        let nonce = ChaCha20Poly1305::generate_nonce(&mut OsRng);
        let payload = Payload { msg: text.as_bytes(), aad: &purpose(tenant, kind) };
        // Encryption fails for texts of more than 256 GiB only.
        let sealed = self.0.encrypt(&nonce, payload).unwrap_or_default();
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// The text that was sealed.
    ///
    /// # Errors
    /// [`Broken`] if it was sealed with another key, for another tenant or as another kind, or was changed.
    pub(crate) fn open(&self, tenant: &Tenant, kind: &str, sealed: &str) -> Result<String, Broken> {
        let bytes = sealed.strip_prefix(PREFIX).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let bytes = bytes.filter(|bytes| bytes.len() > NONCE_LEN).ok_or(Broken)?;
        let (nonce, msg) = bytes.split_at(NONCE_LEN);
        let payload = Payload { msg, aad: &purpose(tenant, kind) };
        let text = self.0.decrypt(Nonce::from_slice(nonce), payload).map_err(|_| Broken)?;
        String::from_utf8(text).map_err(|_| Broken)
    }
}

fn purpose(tenant: &Tenant, kind: &str) -> Vec<u8> {
    format!("{kind}\0{}", tenant.0).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Tenant {
        Tenant(name.into())
    }

    #[test]
    fn only_the_same_server_tenant_and_kind_open_it() {
        let (key, text) = (SealingKey::random(), "I think, déjà vu 🦀");
        let sealer = Sealer::new(&key);
        let sealed = sealer.seal(&tenant("a"), "reasoning", text);
        assert_ne!(sealed, sealer.seal(&tenant("a"), "reasoning", text));
        let again = Sealer::new(&SealingKey::from_hex(&key.to_hex()).expect("a key"));
        assert_eq!(again.open(&tenant("a"), "reasoning", &sealed).as_deref(), Ok(text));
        assert_eq!(sealer.open(&tenant("b"), "reasoning", &sealed), Err(Broken));
        assert_eq!(sealer.open(&tenant("a"), "compaction", &sealed), Err(Broken));
        assert_eq!(Sealer::new(&SealingKey::random()).open(&tenant("a"), "reasoning", &sealed), Err(Broken));
    }

    #[test]
    fn every_changed_letter_is_noticed() {
        let sealer = Sealer::new(&SealingKey::random());
        let sealed = sealer.seal(&tenant(""), "reasoning", "text");
        for at in 0..sealed.len() {
            let mut bytes = sealed.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(sealer.open(&tenant(""), "reasoning", &changed), Err(Broken), "{changed}");
            assert_eq!(sealer.open(&tenant(""), "reasoning", &sealed[..at]), Err(Broken));
        }
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        assert_eq!(SealingKey::from_hex(&format!("{}\n", "0f".repeat(32))), Some(SealingKey([15; 32])));
        for text in ["", "0f", &"0g".repeat(32), &"é".repeat(32), &"+f".repeat(32)] {
            assert_eq!(SealingKey::from_hex(text), None, "{text}");
        }
    }
}
