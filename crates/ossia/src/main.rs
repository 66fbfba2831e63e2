//! The ossia program: reads flags, files and environment, builds the parts and lets them run.

mod cli;
mod commands;
mod demo;
mod device;
mod direct;
mod hub;
mod load;
mod memory;
mod plan;
mod progress;
mod source;
mod storage;
mod vocabulary;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

fn main() -> ExitCode {
    let cli = Cli::parse();
    init_logging();
    let outcome = match cli.command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Pull(args) => commands::pull::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Doctor(args) => commands::doctor::run(&args),
        Command::Logits(args) => commands::logits::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

/// Logs go to stderr, so that stdout stays what a command answers.
fn init_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("OSSIA_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
}

/// Prints an error with its causes, one line each.
#[allow(clippy::print_stderr)]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
}
