//! Automation for this repository: `cargo xtask --help`.

mod aarch64;
mod command;
mod cuda;
mod deny;
mod dist;
mod gate;
mod metal;
mod named_tests;
mod peers;
mod setup;
mod sources;
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
    Test {
        /// As many random cases as the project promises: a million token sequences, 2,000 fuzzed requests
        #[arg(long)]
        thorough: bool,
    },
    /// Check the architecture invariants that a compiler does not
    Tidy,
    /// Everything that CI runs: fmt, clippy, tidy, the GPU sides' types, docs, test
    Ci,
    /// Compare speed with llama.cpp on the same weights, in turns
    BenchPeers(Box<peers::BenchPeersArgs>),
    /// Fail if the engine became slower than recorded; by hand, on an idle machine
    BenchGate(gate::BenchGateArgs),
    /// Check licences, sources and bans of what we depend on, with cargo-deny
    Deny {
        /// Known security faults as well; their list is fetched
        #[arg(long)]
        advisories: bool,
    },
    /// Build what is handed out: an archive with the program, its bill of materials and licences
    Dist(dist::DistArgs),
    /// Lay out a CUDA toolkit from Python wheels, with archives that load the driver at run time
    CudaHome {
        /// Where [default: target/cuda-home]
        dir: Option<PathBuf>,
    },
    /// Type-check the CUDA and Metal sides and the CPU kernels of aarch64; with the CUDA toolkit laid out, also compile our kernels for every architecture
    DeviceCheck,
    /// Run the CUDA host code and our kernels on the CPU, over a driver made for that; no GPU and no toolkit needed
    CudaDryRun,
    /// Run cargo with that toolkit: `cuda-cargo build --release --features cuda`
    CudaCargo {
        /// Arguments of cargo
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Write test assets: `assets o200k OUT`, `assets random-checkpoint --hf-config FILE OUT`
    Assets {
        /// Arguments of the xtask-assets program
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Setup => setup::run(),
        Task::Test { thorough } => test::run(thorough),
        Task::Tidy => tidy::run(),
        Task::Ci => ci(),
        Task::BenchPeers(args) => peers::run(&args),
        Task::BenchGate(args) => gate::run(&args),
        Task::Deny { advisories } => deny::run(advisories),
        Task::Dist(args) => dist::run(&args),
        Task::CudaHome { dir } => cuda::lay_out(&dir.unwrap_or_else(cuda::default_home)),
        Task::DeviceCheck => device_check(),
        Task::CudaDryRun => cuda::dry_run(),
        Task::CudaCargo { args } => cuda::cargo(&cuda::default_home(), &args),
        Task::Assets { args } => assets(&args),
    }
}

/// The checks in the order in which they fail fastest.
fn ci() -> Result<()> {
    command::cargo(&["fmt", "--all", "--check"])?;
    tidy::run()?;
    deny::run_if_installed()?;
    command::cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    device_check()?;
    command::cargo_with_env(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])?;
    test::run(false)
}

/// Clippy with the features of all devices at once, neither of which is here. What the kernels compute is tested on the
/// CPU; that the Metal sources compile as Metal is not, as only Apple has such a compiler. Then the same for the CPU kernels of aarch64.
fn device_check() -> Result<()> {
    let patched = metal::Patched::new()?;
    let config = patched.config();
    let args = ["clippy", "--workspace", "--features", "ossia/cuda,ossia/metal-check", "--config"];
    let args = [&args[..], &[&config, "--", "-D", "warnings"]].concat();
    command::cargo_with_env(&args, &cuda::check_env(&cuda::default_home()))?;
    aarch64::check()
}

/// Runs the program that writes test assets, optimised.
fn assets(args: &[String]) -> Result<()> {
    let mut line = vec!["run", "--quiet", "--release", "--package", "xtask-assets", "--"];
    line.extend(args.iter().map(String::as_str));
    command::cargo(&line)
}
