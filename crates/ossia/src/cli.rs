//! The flags, as text on the command line; everything behind them works on parsed values.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::device::DeviceArg;
use crate::memory::ByteSize;
use crate::source::ModelSource;
use crate::storage::StoreArg;

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
    /// Answer one prompt on the terminal
    Generate(GenerateArgs),
    /// Download a checkpoint from the hub, resumed and verified
    Pull(PullArgs),
    /// Measure prefill and decode speed
    Bench(BenchArgs),
    /// Say what this build and machine have; with `--kernels`, check and time every op of a device
    Doctor(DoctorArgs),
    /// Write the logits of every position of a prompt, for parity checks
    Logits(LogitsArgs),
}

/// Which weights to load and how to compute with them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// Hub repository (owner/name), checkpoint directory, `demo`, or `scripted:FILE` (rules instead of a model, for testing clients)
    #[arg(default_value = "demo", value_name = "MODEL")]
    pub(crate) model: ModelSource,
    /// Revision of the hub repository: branch, tag or commit
    #[arg(long, default_value = "main")]
    pub(crate) revision: String,
    /// How matrix products take their activations; sums are always f32
    #[arg(long, value_enum, default_value_t = Dtype::Bf16)]
    pub(crate) dtype: Dtype,
    /// Where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda:N` or `metal`
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: DeviceArg,
    /// On a GPU: keep the experts of the first N layers in the machine's memory and compute them on the CPU [default: as few as will do]
    #[arg(long, value_name = "N")]
    pub(crate) cpu_moe: Option<usize>,
    /// Where the weights come from
    #[arg(long, value_enum, default_value_t = LoadFormatArg::Safetensors, requires_if("dummy", "hf_config"))]
    pub(crate) load_format: LoadFormatArg,
    /// With `--load-format dummy`: the config.json whose shape is filled with random weights
    #[arg(long, value_name = "FILE")]
    pub(crate) hf_config: Option<PathBuf>,
    /// With `--load-format dummy`: seed of the random weights
    #[arg(long, default_value_t = 0)]
    pub(crate) dummy_seed: u64,
    /// Threads of the one compute pool [default: the number of cores]
    #[arg(long, short = 't')]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// Exact f32 activations and KV cache
    F32,
    /// bf16 activations into each product, bf16 KV cache
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadFormatArg {
    /// The checkpoint's safetensors files
    Safetensors,
    /// Seeded random weights made in memory
    Dummy,
}

/// How requests share the machine.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Engine")]
pub(crate) struct EngineArgs {
    /// Longest prompt and answer together, in tokens [default: what the model and the KV cache allow]
    #[arg(long)]
    pub(crate) max_model_len: Option<usize>,
    /// Sequences that run at the same time
    #[arg(long, default_value_t = 64)]
    pub(crate) max_num_seqs: usize,
    /// Tokens of one forward pass, decode and chunked prefill together
    #[arg(long, default_value_t = 512)]
    pub(crate) max_num_batched_tokens: usize,
    /// Memory of the KV cache, such as `2GiB` [default: from what is free after the weights]
    #[arg(long, value_name = "SIZE")]
    pub(crate) kv_cache_memory: Option<ByteSize>,
    /// On a GPU: share of its free memory that weights, activations and KV cache may take together
    #[arg(long, default_value_t = 0.92, value_name = "SHARE")]
    pub(crate) gpu_memory_utilization: f64,
    /// Tokens per KV cache block
    #[arg(long, default_value_t = 16)]
    pub(crate) block_size: usize,
    /// Do not reuse the KV cache of shared prefixes
    #[arg(long)]
    pub(crate) no_prefix_caching: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", help_heading = "HTTP")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 picks a free one
    #[arg(long, short, default_value_t = 8000, help_heading = "HTTP")]
    pub(crate) port: u16,
    /// Name of the model in the API; may be given several times
    #[arg(long, value_name = "NAME", help_heading = "HTTP")]
    pub(crate) served_model_name: Vec<String>,
    /// Answer requests for any model name instead of 404
    #[arg(long, help_heading = "HTTP")]
    pub(crate) accept_any_model: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Most tokens that the model may reason in a turn; requests may ask for fewer
    #[arg(long, value_name = "N", help_heading = "HTTP")]
    pub(crate) max_reasoning_tokens: Option<usize>,
    /// With `scripted:`: milliseconds per token
    #[arg(long, default_value_t = 0, help_heading = "Model")]
    pub(crate) scripted_delay_ms: u64,
}

/// What outlives a request, and for how long.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "State")]
pub(crate) struct StoreArgs {
    /// Where responses, conversations and stored completions are kept: `sqlite:PATH`, `postgres://...`, `memory` or `none` [default: store.sqlite in the user's data directory]
    #[arg(long, value_name = "STORE", env = "OSSIA_STORE", hide_env_values = true)]
    pub(crate) store: Option<StoreArg>,
    /// Days after which stored responses and completions are dropped
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    pub(crate) store_days: u64,
    /// Most that is stored; beyond it the least recently used goes first
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    pub(crate) store_size: ByteSize,
    /// File with the key that seals encrypted reasoning, 64 hexadecimal digits; made if there is none [default: beside the store]
    #[arg(long, value_name = "FILE", env = "OSSIA_ENCRYPTION_KEY_FILE")]
    pub(crate) encryption_key_file: Option<PathBuf>,
    /// That key itself, from the environment only
    #[arg(skip = std::env::var("OSSIA_ENCRYPTION_KEY").ok())]
    pub(crate) encryption_key: Option<String>,
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
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt lengths to prefill
    #[arg(long, value_delimiter = ',', default_values_t = [512])]
    pub(crate) pp: Vec<usize>,
    /// Tokens to decode after an empty prompt
    #[arg(long, value_delimiter = ',', default_values_t = [32])]
    pub(crate) tg: Vec<usize>,
    /// Sequences decoded together
    #[arg(long, value_delimiter = ',', default_values_t = [1])]
    pub(crate) batch: Vec<usize>,
    /// Tokens already in the cache before each measurement
    #[arg(long, value_delimiter = ',', default_values_t = [0])]
    pub(crate) depth: Vec<usize>,
    /// Most tokens of one prefill pass
    #[arg(long, default_value_t = 512)]
    pub(crate) chunk: usize,
    /// Repetitions; the median is reported
    #[arg(long, short, default_value_t = 5)]
    pub(crate) repetitions: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The device to examine: `auto` (a GPU if there is one), `cpu`, `cuda:N` or `metal`
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: DeviceArg,
    /// Hold every op of the device against the CPU kernels, with its time
    #[arg(long)]
    pub(crate) kernels: bool,
    /// Seed of the checks' inputs [default: random]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Threads of the CPU [default: the number of cores]
    #[arg(long, short = 't')]
    pub(crate) threads: Option<usize>,
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
    /// Where the model runs: `auto` (a GPU if there is one), `cpu`, `cuda:N` or `metal`
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: DeviceArg,
    /// Tokens per forward pass [default: all at once]
    #[arg(long)]
    pub(crate) chunk: Option<usize>,
    /// Threads of the compute pool [default: the number of cores]
    #[arg(long, short = 't')]
    pub(crate) threads: Option<usize>,
}
