//! One file per subcommand.

pub(crate) mod bench;
pub(crate) mod config;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod health;
pub(crate) mod key;
pub(crate) mod logits;
pub(crate) mod pull;
pub(crate) mod serve;
pub(crate) mod verify;
