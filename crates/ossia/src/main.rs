//! The ossia program: reads flags, files and environment, builds the parts and lets them run.

mod cgroup;
mod cli;
mod commands;
mod config;
mod demo;
mod device;
mod device_plan;
mod device_speed;
mod direct;
mod hub;
mod jwks;
mod key_file;
mod lifecycle;
mod listen;
mod load;
mod logging;
mod memory;
mod otlp;
mod outbound;
mod plan;
mod progress;
mod source;
mod storage;
mod vocabulary;
mod watch;

use std::process::ExitCode;

use crate::cli::Command;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    ossia_kernels::keep_freed_memory();
    let args: Vec<_> = std::env::args_os().collect();
    let parsed = config::parse(&args)?;
    match &parsed.cli.command {
        Command::Serve(args) => logging::init(&args.log)?,
        _ => logging::init_from_env(),
    }
    // These have some of the settings of `serve`, so that other variables are none of their business.
    if !matches!(parsed.cli.command, Command::Key(_) | Command::Health(_)) {
        config::warn_of_unknown_variables(&parsed.settings);
    }
    match parsed.cli.command {
        Command::Serve(args) => commands::serve::run(&args),
        Command::Config(_) => commands::config::run(&parsed.settings),
        Command::Doctor(args) => commands::doctor::run(&args, &parsed.settings),
        Command::Key(args) => commands::key::run(&args),
        Command::Generate(args) => commands::generate::run(&args),
        Command::Pull(args) => commands::pull::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Health(args) => commands::health::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Logits(args) => commands::logits::run(&args),
    }
}

/// Prints an error with its causes, one line each.
#[allow(clippy::print_stderr)]
fn report(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
}
