//! Flags of `serve`. A heading is also a table of the configuration file, see `crate::config`.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{EngineArgs, ModelArgs};
use crate::memory::ByteSize;
use crate::storage::StoreArg;

/// What every flag has in common, at the end of the help.
const LAYERS: &str = "Each flag is also the variable OSSIA_FLAG_NAME and a key of the configuration file, under its \
heading here: --max-num-seqs, OSSIA_MAX_NUM_SEQS, and max_num_seqs under [engine]. Flags go before variables, variables \
before the file. `ossia config` prints what is in force.";

#[derive(Debug, Args)]
#[command(after_help = LAYERS)]
pub(crate) struct ServeArgs {
    /// Configuration file, or `none` [default: ossia/ossia.toml in ~/.config, else in /etc, if there is one]
    #[arg(long, value_name = "FILE", env = "OSSIA_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) access: AccessArgs,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// With `scripted:`: milliseconds per token
    #[arg(long, default_value_t = 0, help_heading = "Model")]
    pub(crate) scripted_delay_ms: u64,
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(flatten)]
    pub(crate) lifecycle: LifecycleArgs,
}

/// Where the server listens and how it treats connections.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, short, default_value_t = 8000)]
    pub(crate) port: u16,
    /// Unix domain socket to listen on, in place of address and port
    #[arg(long, value_name = "PATH")]
    pub(crate) unix_socket: Option<PathBuf>,
    /// Name of the model in the API; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) served_model_name: Vec<String>,
    /// Answer requests for any model name instead of 404
    #[arg(long)]
    pub(crate) accept_any_model: bool,
    /// Certificate with its chain, PEM; changes are read while the server runs
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Authorities of clients, PEM: nobody comes in without a certificate that one of them signed
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_client_ca: Option<PathBuf>,
    /// Origin whose web pages may read answers, or `*`; may be given several times [default: none]
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    pub(crate) cors_origin: Vec<String>,
    /// Longest pause of a client in sending a request or taking an answer, and between two requests
    #[arg(long, value_name = "TIME", default_value = "1m")]
    pub(crate) client_timeout: humantime::Duration,
    /// Connections at the same time
    #[arg(long, value_name = "N", default_value_t = 8192)]
    pub(crate) max_connections: usize,
}

/// What a request may ask for.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Requests that may wait for the engine; further ones get 429
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) max_queue_len: usize,
    /// Longest wait for the engine, in milliseconds; then 503 [default: none]
    #[arg(long, value_name = "MS")]
    pub(crate) max_queue_ms: Option<u64>,
    /// Longest body of a request
    #[arg(long, value_name = "SIZE", default_value = "32MiB")]
    pub(crate) max_body_size: ByteSize,
    /// Messages of a chat request, or items of a response's input
    #[arg(long, value_name = "N", default_value_t = 4096)]
    pub(crate) max_messages: usize,
    /// Tools of a request
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub(crate) max_tools: usize,
    /// Tokens of an answer, whatever a request says [default: what the context leaves]
    #[arg(long, value_name = "N")]
    pub(crate) max_output_tokens: Option<usize>,
    /// Most tokens that the model may reason in a turn; requests may ask for fewer
    #[arg(long, value_name = "N")]
    pub(crate) max_reasoning_tokens: Option<usize>,
}

/// How the server goes, and who watches it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Lifecycle")]
pub(crate) struct LifecycleArgs {
    /// Time for open requests to finish after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "30s")]
    pub(crate) drain_timeout: humantime::Duration,
    /// A step of the engine that takes longer is reported
    #[arg(long, value_name = "TIME", default_value = "2m")]
    pub(crate) watchdog: humantime::Duration,
}

/// An origin as browsers send it, or `*`.
fn origin(text: &str) -> Result<String, String> {
    let is_origin = text.split_once("://").is_some_and(|(scheme, host)| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
        !scheme.is_empty() && !host.is_empty() && host.chars().all(legal)
    });
    match is_origin || text == "*" {
        true => Ok(text.to_owned()),
        false => Err("expected an origin such as https://chat.example, without a path, or *".to_owned()),
    }
}

/// Who may ask for what.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArgs {
    /// File of API keys, as hashes, made with `ossia key`; changes are read while the server runs
    #[arg(long, value_name = "FILE")]
    pub(crate) api_keys: Option<PathBuf>,
    /// Issuer of OpenID tokens that are accepted beside keys
    #[arg(long, value_name = "URL", requires_all = ["oidc_audience", "oidc_jwks"])]
    pub(crate) oidc_issuer: Option<String>,
    /// Audience that such a token has to be for
    #[arg(long, value_name = "NAME", requires = "oidc_issuer")]
    pub(crate) oidc_audience: Option<String>,
    /// The issuer's public keys (JWKS): a file, or a URL that is asked again and again
    #[arg(long, value_name = "FILE_OR_URL", requires = "oidc_issuer")]
    pub(crate) oidc_jwks: Option<String>,
    /// Claim of a token that names its tenant
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub(crate) oidc_tenant_claim: String,
    /// How often a URL is asked for the issuer's keys
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub(crate) oidc_refresh: humantime::Duration,
    /// Requests that generate, per minute and subject of a token [default: no limit]
    #[arg(long, value_name = "N", requires = "oidc_issuer")]
    pub(crate) oidc_requests_per_minute: Option<NonZeroU32>,
    /// Tokens, prompts and answers together, per minute and subject of a token [default: no limit]
    #[arg(long, value_name = "N", requires = "oidc_issuer")]
    pub(crate) oidc_tokens_per_minute: Option<NonZeroU64>,
    /// Requests that generate at the same time, per subject of a token [default: no limit]
    #[arg(long, value_name = "N", requires = "oidc_issuer")]
    pub(crate) oidc_max_concurrent: Option<NonZeroU32>,
    /// Listen on addresses that others can reach although everybody may do everything
    #[arg(long)]
    pub(crate) insecure: bool,
}

/// What is written down, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Observability")]
pub(crate) struct LogArgs {
    /// What is logged: a level, or levels by module as tracing's EnvFilter reads them
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
    /// How log lines look
    #[arg(long, value_enum, default_value_t = LogFormat::Human)]
    pub(crate) log_format: LogFormat,
    /// File to which a line of JSON is added for each request that generates and each that is refused
    #[arg(long, value_name = "FILE")]
    pub(crate) audit_log: Option<PathBuf>,
    /// Write prompts and answers to the audit log as well
    #[arg(long)]
    pub(crate) audit_contents: bool,
    /// Let everybody read /metrics, also where other requests need a key
    #[arg(long)]
    pub(crate) public_metrics: bool,
    /// Collector of OpenTelemetry traces, which are sent to its path /v1/traces as JSON [default: none, no traces]
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Human,
    /// One JSON object per line
    Json,
}

/// What outlives a request, and for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "State")]
pub(crate) struct StoreArgs {
    /// Where responses, conversations and stored completions are kept: `sqlite:PATH`, `postgres://...`, `memory` or `none` [default: store.sqlite in the user's data directory]
    #[arg(long, value_name = "STORE")]
    pub(crate) store: Option<StoreArg>,
    /// Days after which stored responses and completions are dropped
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(crate) store_days: u64,
    /// Most that is stored; beyond it the least recently used goes first
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub(crate) store_size: ByteSize,
    /// File with the key that seals encrypted reasoning, 64 hexadecimal digits; made if there is none [default: beside the store]
    #[arg(long, value_name = "FILE")]
    pub(crate) encryption_key_file: Option<PathBuf>,
    /// That key itself, from the environment only
    #[arg(skip = std::env::var("OSSIA_ENCRYPTION_KEY").ok())]
    pub(crate) encryption_key: Option<String>,
}
