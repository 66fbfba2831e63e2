//! The JSON of OpenAI's API: every type that crosses the wire, and the only types that derive serde's traits.
//!
//! Request types keep each field of OpenAI's document that Ossia knows, typed, all optional; what a field may
//! hold and which fields are required is checked in `prepare`, so that an error can name the field. Fields that
//! the document does not have are ignored, as OpenAI ignores them. Names and meanings of the fields are those of
//! the document (version 2.3.0), which is their documentation.
#![allow(missing_docs)]

pub mod audit;
pub mod chat;
pub mod completion;
pub mod content;
pub mod conversations;
pub mod error;
pub mod loads;
pub mod logprobs;
pub mod model;
pub mod page;
pub mod poly;
pub mod responses;
pub mod tokens;
pub mod usage;
