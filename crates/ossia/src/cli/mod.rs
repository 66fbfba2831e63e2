//! The flags, as text on the command line; everything behind them works on parsed values.

mod key;
mod model;
mod serve;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::bench::args::BenchArgs;
use crate::source::ModelSource;
pub(crate) use key::{KeyAction, KeyArgs, NewKeyArgs};
pub(crate) use model::{
    CoreList, CpuWeights, Dtype, EngineArgs, GpuWeights, KeptArgs, KvCacheDtype, LoadFormatArg, ModelArgs,
    Numa, ThreadArgs,
};
pub(crate) use serve::{AccessArgs, HttpArgs, LogArgs, LogFormat, ServeArgs, StoreArgs};

/// OpenAI's open-weight gpt-oss models behind OpenAI's own HTTP API.
#[derive(Debug, Parser)]
#[command(name = "ossia", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a model over HTTP
    Serve(Box<ServeArgs>),
    /// Print the settings that `serve` would have with these flags, and where each comes from
    Config(Box<ServeArgs>),
    /// Check whether `serve` would start with these flags, and what would fit
    Doctor(Box<DoctorArgs>),
    /// Make, list and revoke API keys
    Key(KeyArgs),
    /// Answer one prompt on the terminal
    Generate(GenerateArgs),
    /// Download a checkpoint from the hub, resumed and verified
    Pull(PullArgs),
    /// Compare the files of a checkpoint with their hashes
    Verify(VerifyArgs),
    /// Ask the server that has these settings whether it is ready: exit code 0 if it is
    Health(Box<HealthArgs>),
    /// Measure prefill and decode speed, or a server under load
    Bench(Box<BenchArgs>),
    /// Write the logits of every position of a prompt, for parity checks
    Logits(LogitsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// What to ask
    #[arg(long, short)]
    pub(crate) prompt: String,
    /// How long the model reasons: low, medium or high
    #[arg(long, value_enum, default_value_t = Effort::Medium)]
    pub(crate) effort: Effort,
    /// Most tokens to generate
    #[arg(long, default_value_t = 1024)]
    pub(crate) max_tokens: usize,
    /// 0 takes the likeliest token each time
    #[arg(long, default_value_t = 1.0)]
    pub(crate) temperature: f32,
    /// Seed of the sampler [default: random]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Leave the chain of thought out
    #[arg(long)]
    pub(crate) hide_reasoning: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Effort {
    Low,
    Medium,
    High,
}

#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Repository on the hub: owner/name
    pub(crate) repo: String,
    /// Branch, tag or commit
    #[arg(long, default_value = "main")]
    pub(crate) revision: String,
    /// Directory for the files and their hashes, to be carried elsewhere [default: the cache of the hub tools]
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Checkpoint directory with SHA256SUMS, or hub repository (owner/name) in the cache
    pub(crate) model: ModelSource,
    /// Revision of the hub repository: branch, tag or commit
    #[arg(long, default_value = "main")]
    pub(crate) revision: String,
}

#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Configuration file; the same setting as for `serve`
    #[arg(long, value_name = "FILE", env = "OSSIA_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Ask whether the process works, also while it loads or drains
    #[arg(long)]
    pub(crate) live: bool,
    #[command(flatten)]
    pub(crate) http: HttpArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    pub(crate) serve: ServeArgs,
    /// Also hold every op of the device against the CPU kernels, and time it
    #[arg(long)]
    pub(crate) kernels: bool,
    /// With `--kernels`: seed of the inputs [default: random]
    #[arg(long, requires = "kernels")]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct LogitsArgs {
    /// Checkpoint directory
    #[arg(long)]
    pub(crate) model: PathBuf,
    /// JSON file with a list of token ids
    #[arg(long)]
    pub(crate) ids: PathBuf,
    /// safetensors file to write: `logits`, f32 [num_tokens, vocab_size]
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// How matrix products take their activations
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub(crate) dtype: Dtype,
    #[command(flatten)]
    pub(crate) kept: KeptArgs,
    /// Tokens per forward pass [default: all at once]
    #[arg(long)]
    pub(crate) chunk: Option<usize>,
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
}
