//! Writes test assets. Apart from xtask, so that running the tests does not first compile the model once more.

mod o200k;
mod random_checkpoint;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

/// What to write.
#[derive(Debug, Parser)]
enum Asset {
    /// The real o200k_harmony tokenizer.json
    O200k {
        /// The file to write
        out: PathBuf,
    },
    /// A random-weight gpt-oss checkpoint in the Hugging Face layout
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
    match Asset::parse() {
        Asset::O200k { out } => o200k::write_tokenizer(&out),
        Asset::RandomCheckpoint { hf_config, seed, out } => random_checkpoint::write(&hf_config, seed, &out),
    }
}
