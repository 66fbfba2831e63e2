//! `cargo xtask bench-gate`: has a change made the engine slower?
//!
//! It compares ratios that two machines have in common better than speeds: what decode reaches of the
//! ceiling of memory, and how much faster prefill is than decode. They are recorded per instruction set. Run by
//! hand on an idle machine; CI machines are shared.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::command;

/// Two layers of gpt-oss-20b's shape and an eighth of its vocabulary, with random weights.
const SHAPE: &str = "docs/benchmarks/gate/config.json";
/// Ratios by instruction set.
const RECORDED: &str = "docs/benchmarks/gate/recorded.json";
/// Ratios may sink by this share.
const TOLERANCE: f64 = 0.1;

#[derive(Debug, Args)]
pub(crate) struct BenchGateArgs {
    /// The ossia program [default: it is built with `--release`]
    #[arg(long)]
    ossia: Option<PathBuf>,
    /// Record what is measured instead of comparing with it
    #[arg(long)]
    record: bool,
    /// Repetitions of each measurement; the medians are compared
    #[arg(long, default_value_t = 7)]
    repetitions: usize,
}

/// Measures, then records or compares.
#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &BenchGateArgs) -> Result<()> {
    let found = measure(args)?;
    let isa = found["isa"].as_str().context("ossia bench names no instruction set")?;
    let ratios = ratios(&found)?;
    let path = command::root().join(RECORDED);
    let mut recorded = read(&path)?;
    if args.record {
        recorded[isa] = ratios.iter().map(|(name, ratio)| (name.clone(), json!(ratio))).collect();
        let text = serde_json::to_string_pretty(&recorded)? + "\n";
        return std::fs::write(&path, text).with_context(|| format!("cannot write {RECORDED}"));
    }
    let before =
        recorded.get(isa).with_context(|| format!("{RECORDED} has nothing for {isa}: --record first"))?;
    let mut losses = Vec::new();
    for (name, ratio) in &ratios {
        let before =
            before[name].as_f64().with_context(|| format!("{RECORDED} has no '{name}' for {isa}"))?;
        println!("{name}: {ratio:.3}, recorded {before:.3} ({:+.0}%)", 100.0 * (ratio / before - 1.0));
        if is_loss(*ratio, before) {
            losses.push(name.as_str());
        }
    }
    ensure!(losses.is_empty(), "more than {:.0}% lost: {}", TOLERANCE * 100.0, losses.join(", "));
    Ok(())
}

fn measure(args: &BenchGateArgs) -> Result<Value> {
    let program = match &args.ossia {
        Some(path) => path.clone(),
        None => {
            command::cargo(&["build", "--release", "--package", "ossia"])?;
            command::root().join("target/release/ossia")
        }
    };
    let flags = "bench --load-format dummy --pp 512 --tg 32 --batch 1,8 --depth 0,4096 -o json --hf-config";
    let mut command = Command::new(&program);
    command.args(flags.split_whitespace()).arg(command::root().join(SHAPE));
    command.args(["-r", &args.repetitions.to_string()]);
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(output.status.success(), "ossia bench failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("ossia bench's output is not JSON")
}

/// The ratios that the gate watches, by name.
fn ratios(found: &Value) -> Result<Vec<(String, f64)>> {
    let results = found["results"].as_array().context("ossia bench has no results")?;
    let line = |test: &str, depth: u64, batch: u64| {
        let is_it = |line: &&Value| line["test"] == *test && line["depth"] == depth && line["batch"] == batch;
        results.iter().find(is_it).with_context(|| format!("no {test} at depth {depth}, batch {batch}"))
    };
    let number = |line: &Value, name: &str| match line[name].as_f64() {
        Some(number) if number > 0.0 => Ok(number),
        _ => bail!("{name} of {} is {}", line["test"], line[name]),
    };
    let mut ratios = Vec::new();
    for (depth, batch) in [(0, 1), (0, 8), (4096, 1), (4096, 8)] {
        let fraction = number(line("tg32", depth, batch)?, "roofline_fraction")?;
        ratios.push((format!("decode at depth {depth}, batch {batch}, of the roofline"), fraction));
    }
    let decode = number(line("tg32", 0, 1)?, "tokens_per_s")?;
    for depth in [0, 4096] {
        let prefill = number(line("pp512", depth, 1)?, "tokens_per_s")?;
        ratios.push((format!("prefill at depth {depth}, of decode at 0"), prefill / decode));
    }
    Ok(ratios)
}

fn is_loss(ratio: f64, before: f64) -> bool {
    ratio < before * (1.0 - TOLERANCE)
}

/// The recorded ratios; none where nothing was recorded.
fn read(path: &Path) -> Result<Value> {
    match path.exists() {
        false => Ok(json!({})),
        true => {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {RECORDED}"))?;
            serde_json::from_str(&text).with_context(|| format!("{RECORDED} is not JSON"))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn found() -> Value {
        let mut results = Vec::new();
        for depth in [0, 4096] {
            results.push(json!({"test": "pp512", "depth": depth, "batch": 1, "tokens_per_s": 60.0}));
            for batch in [1, 8] {
                results.push(json!({"test": "tg32", "depth": depth, "batch": batch, "tokens_per_s": 6.0,
                    "roofline_fraction": 0.5}));
            }
        }
        json!({"isa": "AVX2", "results": results})
    }

    #[test]
    fn each_ratio_is_read_from_its_line() {
        let ratios = ratios(&found()).unwrap();
        let values: Vec<f64> = ratios.iter().map(|(_, ratio)| *ratio).collect();
        assert_eq!(values, [0.5, 0.5, 0.5, 0.5, 10.0, 10.0]);
        let mut cut = found();
        cut["results"].as_array_mut().unwrap().pop();
        assert!(super::ratios(&cut).unwrap_err().to_string().contains("depth 4096, batch 8"));
    }

    #[test]
    fn a_loss_is_more_than_a_tenth() {
        assert!(!is_loss(0.91, 1.0) && !is_loss(2.0, 1.0));
        assert!(is_loss(0.89, 1.0));
    }
}
