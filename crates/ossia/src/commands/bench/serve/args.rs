//! The flags of `ossia bench serve`.

use clap::{Args, ValueEnum};

use super::lengths::Lengths;
use super::slo::Slo;
use crate::commands::bench::args::OutputFormat;

#[derive(Debug, Args)]
pub(crate) struct BenchServeArgs {
    /// Base URL of the API, version included
    #[arg(long, default_value = "http://127.0.0.1:8000/v1", value_name = "URL")]
    pub(crate) base_url: String,
    /// Which endpoint to load
    #[arg(long, value_enum, default_value_t = Endpoint::Chat)]
    pub(crate) endpoint: Endpoint,
    /// Name of the model [default: the first that the server lists]
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Sent as a bearer token
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Requests to send in all
    #[arg(long, short = 'n', default_value_t = 100, value_name = "N")]
    pub(crate) requests: usize,
    /// Open loop: requests per second, sent at random (Poisson) times whether or not earlier ones are answered
    #[arg(long, conflicts_with = "concurrency")]
    pub(crate) rate: Option<f64>,
    /// Closed loop: so many clients, each of which sends its next request when the last is answered
    #[arg(long, short, default_value_t = 8)]
    pub(crate) concurrency: usize,
    /// Prompt length in common English words, about a token each: `N`, `MIN-MAX`, or `lognormal:MEDIAN:SIGMA`
    #[arg(long, default_value = "250", value_name = "LENGTHS")]
    pub(crate) input_len: Lengths,
    /// Tokens to generate, written like `--input-len`; sent as max_tokens together with `ignore_eos`
    #[arg(long, default_value = "128", value_name = "LENGTHS")]
    pub(crate) output_len: Lengths,
    /// Words that all prompts begin with, for prefix caching
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) shared_prefix: usize,
    /// Let the model end its answers: do not send `ignore_eos`
    #[arg(long)]
    pub(crate) allow_eos: bool,
    /// Temperature of the requests
    #[arg(long, default_value_t = 1.0)]
    pub(crate) temperature: f64,
    /// JSON object merged into each request's body
    #[arg(long, default_value = "{}", value_name = "JSON")]
    pub(crate) extra_body: String,
    /// Seed of arrivals, lengths and prompts
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// What a good request keeps to, in milliseconds, for the goodput: such as `ttft=2000,itl=200,e2e=30000`
    #[arg(long, value_name = "LIMITS")]
    pub(crate) slo: Option<Slo>,
    /// Requests sent one after the other before the clock starts
    #[arg(long, default_value_t = 1)]
    pub(crate) warmup: usize,
    /// How the result is printed
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Md)]
    pub(crate) output: OutputFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Endpoint {
    /// POST /chat/completions
    Chat,
    /// POST /completions
    Completions,
}
