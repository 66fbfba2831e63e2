//! The flags of `ossia bench` and `ossia bench serve`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::serve::args::BenchServeArgs;
use crate::cli::ModelArgs;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) command: Option<BenchCommand>,
    #[command(flatten)]
    pub(crate) speed: BenchSpeedArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Load a running server, ours or another, as its clients would
    Serve(Box<BenchServeArgs>),
}

/// What `ossia bench` measures; names as in llama-bench.
#[derive(Debug, Args)]
pub(crate) struct BenchSpeedArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Prompt lengths to prefill; 0 leaves prefill out
    #[arg(long, short = 'p', value_delimiter = ',', default_values_t = [512])]
    pub(crate) pp: Vec<usize>,
    /// Tokens to decode; 0 leaves decode out
    #[arg(long, short = 'n', value_delimiter = ',', default_values_t = [32])]
    pub(crate) tg: Vec<usize>,
    /// Sequences decoded together
    #[arg(long, short = 'b', value_delimiter = ',', default_values_t = [1])]
    pub(crate) batch: Vec<usize>,
    /// Tokens already in the cache before each measurement (filled, not computed)
    #[arg(long, short = 'd', value_delimiter = ',', default_values_t = [0])]
    pub(crate) depth: Vec<usize>,
    /// Most tokens of one prefill pass
    #[arg(long, default_value_t = 512)]
    pub(crate) chunk: usize,
    /// Repetitions after one to warm up; the median is reported
    #[arg(long, short, default_value_t = 5)]
    pub(crate) repetitions: usize,
    /// How the result is printed
    #[arg(long, short, value_enum, default_value_t = OutputFormat::Md)]
    pub(crate) output: OutputFormat,
    /// Write an SVG plot of throughput over depth and over batch
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// A Markdown table
    Md,
    /// One JSON object
    Json,
}
