//! `cargo xtask bench-peers`: Ossia and llama.cpp on the same weights, in turns, within one run.
//!
//! Nothing is fetched or built here: the peer's programs and files are arguments. The two sides take turns so
//! that what changes on the machine changes for both; medians over the rounds are compared.

mod report;
mod sides;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;

use self::sides::{Line, Side};

#[derive(Debug, Args)]
pub(crate) struct BenchPeersArgs {
    /// The ossia program, built with `--release`
    #[arg(long, default_value = "target/release/ossia")]
    ossia: PathBuf,
    /// Checkpoint directory for ossia
    #[arg(long)]
    model: PathBuf,
    /// Directory of llama-bench and llama-batched-bench
    #[arg(long)]
    llama_bin: PathBuf,
    /// The same weights for llama.cpp; give the option again for other quantisations
    #[arg(long, required = true)]
    gguf: Vec<PathBuf>,
    /// Prompt lengths to prefill
    #[arg(long, value_delimiter = ',', default_values_t = [128, 512])]
    pp: Vec<usize>,
    /// Tokens to decode
    #[arg(long, default_value_t = 32)]
    tg: usize,
    /// Sequences decoded together; llama-batched-bench measures those above 1
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 16])]
    batch: Vec<usize>,
    /// Tokens in the cache before each measurement of one sequence
    #[arg(long, value_delimiter = ',', default_values_t = [0])]
    depth: Vec<usize>,
    /// Threads of both
    #[arg(long, short, default_value_t = 2)]
    threads: usize,
    /// Turns of each side; the medians are compared
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// More flags for `ossia bench`, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    ossia_flags: String,
    /// More flags for llama.cpp's programs, separated by spaces
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    llama_flags: String,
    /// Program that runs each measurement, such as one that keeps the machine quiet meanwhile
    #[arg(long)]
    under: Option<PathBuf>,
    /// Markdown file to write [default: stdout]
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Measures in turns and writes the comparison.
#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(crate) fn run(args: &BenchPeersArgs) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds must be at least 1");
    let sides: Vec<Side> = std::iter::once(Side::Ossia).chain(args.gguf.iter().map(Side::Llama)).collect();
    let mut lines: Vec<Vec<Line>> = sides.iter().map(|_| Vec::new()).collect();
    let mut read_bytes_per_s: Vec<f64> = Vec::new();
    for round in 0..args.rounds {
        for (side, lines) in sides.iter().zip(&mut lines) {
            eprintln!("round {} of {}: {}", round + 1, args.rounds, side.name());
            let turn = side.measure(args)?;
            lines.extend(turn.lines);
            read_bytes_per_s.extend(turn.read_bytes_per_s);
        }
    }
    let text = report::markdown(args, &sides, &lines, &read_bytes_per_s);
    match &args.out {
        Some(path) => std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display())),
        None => {
            print!("{text}");
            Ok(())
        }
    }
}
