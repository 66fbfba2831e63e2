//! OpenAI's HTTP API over the engine: wire types, routes, server-sent events.
//!
//! [`router`] is the whole API as a tower service; [`AppState`] is made of a running engine, the model's tokenizer
//! and a [`ServerConfig`]. A request takes the way `wire` (JSON) -> `prepare` (checked) -> `turn` (engine and
//! harmony parser) -> `api` (OpenAI's events); the answer to a request that does not stream is the fold of the
//! events that a stream would have sent.

mod api;
mod clock;
mod error;
mod extract;
mod ids;
mod live;
mod prepare;
mod router;
mod seal;
mod sse;
mod state;
mod store;
mod strict;
#[cfg(test)]
mod test_support;
mod turn;
pub mod wire;

pub use error::ApiError;
pub use router::router;
pub use seal::SealingKey;
pub use state::{AppState, ServerConfig};
pub use store::{Store, StoreError, StoreOptions, StoreTarget};
