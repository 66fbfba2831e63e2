//! The routes: thin handlers, and the builders of OpenAI's events.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod conversations;
pub(crate) mod health;
pub(crate) mod loads;
pub(crate) mod metrics;
pub(crate) mod models;
mod objects;
pub(crate) mod page;
pub(crate) mod responses;
#[cfg(test)]
mod tests;
pub(crate) mod tokens;

#[cfg(test)]
pub(crate) use tests::fold_check;
