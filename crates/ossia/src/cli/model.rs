//! Flags of every command that loads a model.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::device::DeviceArg;
use crate::memory::ByteSize;
use crate::source::ModelSource;

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
    #[command(flatten)]
    pub(crate) kept: KeptArgs,
    /// Read the weights into memory of their own instead of mapping their files: slower to start, and the system cannot take them back
    #[arg(long)]
    pub(crate) no_mmap: bool,
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
    #[command(flatten)]
    pub(crate) threads: ThreadArgs,
}

/// How the CPU's threads and memory are laid out.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ThreadArgs {
    /// Threads of the one compute pool [default: the number of cores, or of those in --cpu-affinity]
    #[arg(long, short = 't')]
    pub(crate) threads: Option<usize>,
    /// Cores that compute threads are pinned to, one each, such as `0-3,8` [default: wherever the system puts them]
    #[arg(long, value_name = "CORES")]
    pub(crate) cpu_affinity: Option<CoreList>,
    /// How memory is spread over the nodes of a machine that has several
    #[arg(long, value_enum, default_value_t = Numa::System)]
    pub(crate) numa: Numa,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Numa {
    /// As the system does
    System,
    /// In turns, so that every core reads from all of them
    Interleave,
}

/// Cores, as `taskset` writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CoreList(pub(crate) Vec<usize>);

impl FromStr for CoreList {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        ossia_kernels::parse_list(list).map(Self)
    }
}

/// What is kept in fewer bits than it has, and where.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct KeptArgs {
    /// On the CPU: how the matrices of attention and the lm_head are kept; experts stay as stored
    #[arg(long, value_enum, default_value_t = CpuWeights::Bf16)]
    pub(crate) cpu_weights: CpuWeights,
    /// The same on an NVIDIA GPU
    #[arg(long, value_enum, default_value_t = GpuWeights::Bf16)]
    pub(crate) gpu_weights: GpuWeights,
    /// How the KV cache keeps keys and values
    #[arg(long, value_enum, default_value_t = KvCacheDtype::Auto)]
    pub(crate) kv_cache_dtype: KvCacheDtype,
    /// Where the model runs: `auto` (a GPU if this build and machine have one), `cpu`, `cuda:N` or `metal`
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    pub(crate) device: DeviceArg,
    /// Devices that share every layer of the model: `cuda:N` and those after it, or as many threads on the CPU, to try it
    #[arg(long, default_value = "1", value_name = "RANKS")]
    pub(crate) tensor_parallel_size: NonZeroUsize,
}

impl ModelArgs {
    /// What is loaded, for people.
    pub(crate) fn name(&self) -> String {
        match &self.hf_config {
            Some(config) => format!("random weights of {}", config.display()),
            None => self.model.default_name(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    /// Exact f32 activations
    F32,
    /// bf16 activations into each product
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvCacheDtype {
    /// As `--dtype` says
    Auto,
    /// Rounded to bf16
    Bf16,
    /// Rounded to floating point of 8 bits (e4m3): half the memory of bf16, and less exact
    #[value(alias = "fp8_e4m3")]
    Fp8,
    /// Rounded to integers of 8 bits with a scale for each 32: nearly as little memory, and more exact; on the CPU
    Int8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CpuWeights {
    /// As stored, in the mapped file
    Bf16,
    /// The lm_head rounded to 8 bits at load: half its bytes, so decoding is faster
    Int8LmHead,
    /// Attention and the lm_head rounded to 8 bits: faster still, and less exact
    Int8,
    /// Attention rounded to 10 bits and the lm_head to 8: nearly as fast, and more exact
    Int10,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GpuWeights {
    /// As stored
    Bf16,
    /// The lm_head rounded to 8 bits at load: half its bytes, so decoding is faster
    Int8LmHead,
    /// Attention and the lm_head rounded to 8 bits: faster still, and less exact
    Int8,
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
    /// Tokens of one forward pass, decode and chunked prefill together [default: 512; on an NVIDIA GPU 2048, unless more of the model would
    /// have to leave it for that]
    #[arg(long)]
    pub(crate) max_num_batched_tokens: Option<usize>,
    /// Memory of the KV cache, such as `2GiB` [default: from what is free after the weights]
    #[arg(long, value_name = "SIZE")]
    pub(crate) kv_cache_memory: Option<ByteSize>,
    /// On a GPU: share of its free memory that weights, activations and KV cache may take together
    #[arg(long, default_value_t = 0.92, value_name = "SHARE")]
    pub(crate) gpu_memory_utilization: f64,
    /// Tokens per KV cache block
    #[arg(long, default_value_t = 16)]
    pub(crate) block_size: usize,
    /// How long a pass may take that computes a prompt while other sequences decode: it bounds the pause between two
    /// of their tokens. Prompts are cut to it by what passes took so far, down to 16 tokens
    #[arg(long, default_value_t = 1000, value_name = "MS")]
    pub(crate) max_prefill_ms: u64,
    /// Most tokens that are guessed from the text so far and verified in one pass, when that is faster; answers are the
    /// same bit for bit. 0 turns it off
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub(crate) num_speculative_tokens: usize,
    /// Do not reuse the KV cache of shared prefixes
    #[arg(long)]
    pub(crate) no_prefix_caching: bool,
}
