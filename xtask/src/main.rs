//! Automation for this repository: `cargo xtask --help`.

mod command;
mod o200k;
mod random_checkpoint;
mod setup;
mod test;
mod tidy;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Automation for this repository")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what the tests need beside Rust: a Python environment with the official SDKs
    Setup,
    /// Run every test: Rust, documentation examples, real clients against the real server
    Test,
    /// Check the architecture invariants that a compiler does not
    Tidy,
    /// Everything that CI runs: fmt, clippy, docs, tidy, test
    Ci,
    /// Write the real o200k_harmony tokenizer.json
    O200k {
        /// The file to write
        out: PathBuf,
    },
    /// Write a random-weight gpt-oss checkpoint in the Hugging Face layout
    RandomCheckpoint {
        /// config.json that gives the shape
        #[arg(long)]
        hf_config: PathBuf,
        /// Seed of the weights
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Directory to write
        out: PathBuf,
    },
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Setup => setup::run(),
        Task::Test => test::run(),
        Task::Tidy => tidy::run(),
        Task::Ci => ci(),
        Task::O200k { out } => o200k::write_tokenizer(&out),
        Task::RandomCheckpoint { hf_config, seed, out } => random_checkpoint::write(&hf_config, seed, &out),
    }
}

/// The checks in the order in which they fail fastest.
fn ci() -> Result<()> {
    command::cargo(&["fmt", "--all", "--check"])?;
    tidy::run()?;
    command::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    command::cargo_with_env(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    test::run()
}
