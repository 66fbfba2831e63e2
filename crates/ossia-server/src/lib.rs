//! OpenAI's HTTP API over the engine: wire types, routes, server-sent events.
//!
//! [`router`] is the whole API as a tower service; [`AppState`] is made of a running engine, the model's tokenizer
//! and a [`ServerConfig`]. A request takes the way `wire` (JSON) -> `prepare` (checked) -> `turn` (engine and
//! harmony parser) -> `api` (OpenAI's events); the answer to a request that does not stream is the fold of the
//! events that a stream would have sent.

mod access;
mod api;
mod audit;
mod clock;
mod error;
mod extract;
mod ids;
mod lifecycle;
mod live;
mod metrics;
mod prepare;
mod redact;
mod router;
mod seal;
mod sse;
mod state;
mod store;
mod strict;
#[cfg(test)]
mod test_support;
mod traces;
mod turn;
mod watchdog;
pub mod wire;

pub use access::{Access, JwksError, KeyError, KeySpec, TokenLimits, TokenRules, hash_of, new_secret};
pub use audit::Audit;
pub use error::{ApiError, RateLimit};
pub use extract::MAX_HEAD_BYTES;
pub use lifecycle::{Lifecycle, Phase};
pub use redact::without_password;
pub use router::router;
pub use seal::SealingKey;
pub use state::{AppState, ServerConfig, Services};
pub use store::{Store, StoreError, StoreOptions, StoreTarget};
pub use traces::Traces;
