//! `/v1/chat/completions`.

mod message;
mod request;
mod response;

pub use message::*;
pub use request::*;
pub use response::*;
