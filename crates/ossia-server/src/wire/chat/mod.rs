//! `/v1/chat/completions`.

mod message;
mod request;
mod response;
mod stored;

pub use message::*;
pub use request::*;
pub use response::*;
pub use stored::*;
