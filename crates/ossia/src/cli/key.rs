//! Flags of `key`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    /// File of API keys, as hashes; the same setting as for `serve`
    #[arg(long, value_name = "FILE", global = true, help_heading = "Access")]
    pub(crate) api_keys: Option<PathBuf>,
    /// Configuration file that may name it
    #[arg(long, value_name = "FILE", global = true, env = "OSSIA_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) action: KeyAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyAction {
    /// Make a key and print it, once
    New(NewKeyArgs),
    /// List the keys, without what is secret
    List,
    /// Take a key out; a running server refuses it from then on
    Revoke {
        /// Id of the key, or its name if no other has it
        key: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct NewKeyArgs {
    /// Whose key it is
    #[arg(long)]
    pub(crate) name: String,
    /// Keys of one tenant share stored state, cached prefixes and a share of the engine [default: the key alone]
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    /// Most requests that generate, per minute
    #[arg(long, value_name = "N")]
    pub(crate) requests_per_minute: Option<u32>,
    /// Most tokens of prompts and answers, per minute
    #[arg(long, value_name = "N")]
    pub(crate) tokens_per_minute: Option<u64>,
    /// Most requests that generate at the same time
    #[arg(long, value_name = "N")]
    pub(crate) max_concurrent: Option<u32>,
    /// Model that may be asked; may be given several times [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Vec<String>,
    /// Lower is served first
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    pub(crate) priority: i32,
    /// Last day on which the key is good, in UTC
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub(crate) expires: Option<String>,
    /// Let it read /metrics and /v1/loads, which show all tenants
    #[arg(long)]
    pub(crate) admin: bool,
}
