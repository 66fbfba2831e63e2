//! `/v1/responses`.

mod event;
mod input;
mod output;
mod request;
mod response;
mod socket;
mod tool;

pub use event::*;
pub use input::*;
pub use output::*;
pub use request::*;
pub use response::*;
pub use socket::*;
pub use tool::*;
