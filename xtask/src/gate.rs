//! `cargo xtask bench-gate`: has a change made the engine slower?
//!
//! It compares ratios that two machines have in common better than speeds: what decode reaches of the
//! ceiling of memory, and how much faster prefill is than decode. They are recorded per instruction set. Where memory's speed
//! changes by itself (other guests of the host), an older program that takes turns with the new one says more. Run by hand on
//! an idle machine; CI machines are shared.

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
    #[arg(long, conflicts_with = "against")]
    record: bool,
    /// An older ossia program: compare speeds with its, in turns, and not with what is recorded
    #[arg(long)]
    against: Option<PathBuf>,
    /// Runs of the program; the medians of their ratios are compared
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Repetitions of each measurement within a run
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
}

/// Measures, then records or compares.
#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &BenchGateArgs) -> Result<()> {
    let program = program(args)?;
    if let Some(older) = &args.against {
        return compare(&program, older, args);
    }
    let rounds: Vec<Value> =
        (0..args.rounds).map(|_| measure(&program, args.repetitions)).collect::<Result<_>>()?;
    let isa = rounds[0]["isa"].as_str().context("ossia bench names no instruction set")?;
    let ratios = medians(&rounds.iter().map(ratios).collect::<Result<Vec<_>>>()?);
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
    refuse(&losses)
}

/// Fails if something was lost.
fn refuse(losses: &[&str]) -> Result<()> {
    ensure!(losses.is_empty(), "more than {:.0}% lost: {}", TOLERANCE * 100.0, losses.join(", "));
    Ok(())
}

/// Two programs in turns: the medians of what the newer one's speeds are of the older one's.
#[allow(clippy::print_stdout)]
fn compare(program: &Path, older: &Path, args: &BenchGateArgs) -> Result<()> {
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let (before, after) = (measure(older, args.repetitions)?, measure(program, args.repetitions)?);
        rounds.push(gains(&before, &after)?);
    }
    let gains = medians(&rounds);
    for (name, gain) in &gains {
        println!("{name}: {:+.1}%", 100.0 * (gain - 1.0));
    }
    let losses: Vec<&str> =
        gains.iter().filter(|(_, gain)| is_loss(*gain, 1.0)).map(|(name, _)| name.as_str()).collect();
    refuse(&losses)
}

/// Each measurement's name, and its speed of `after` as a multiple of that of `before`.
fn gains(before: &Value, after: &Value) -> Result<Vec<(String, f64)>> {
    let lines = |found: &Value| found["results"].as_array().cloned().context("ossia bench has no results");
    let (before, after) = (lines(before)?, lines(after)?);
    let gain = |(before, after): (&Value, &Value)| {
        let name =
            |line: &Value| format!("{} at depth {}, batch {}", line["test"], line["depth"], line["batch"]);
        ensure!(name(before) == name(after), "{} beside {}", name(before), name(after));
        let speed = |line: &Value| line["tokens_per_s"].as_f64().filter(|speed| *speed > 0.0);
        let gain = speed(after).zip(speed(before)).map(|(after, before)| after / before);
        Ok((name(after), gain.with_context(|| format!("{} has no speed", name(after)))?))
    };
    before.iter().zip(&after).map(gain).collect()
}

/// The program that is named, or a fresh one.
fn program(args: &BenchGateArgs) -> Result<PathBuf> {
    if let Some(path) = &args.ossia {
        return Ok(path.clone());
    }
    command::cargo(&["build", "--release", "--package", "ossia"])?;
    Ok(command::root().join("target/release/ossia"))
}

fn measure(program: &Path, repetitions: usize) -> Result<Value> {
    let flags = "bench --load-format dummy --pp 512 --tg 32 --batch 1,8 --depth 0,4096 -o json --hf-config";
    let mut command = Command::new(program);
    command.args(flags.split_whitespace()).arg(command::root().join(SHAPE));
    command.args(["-r", &repetitions.to_string()]);
    let output = command.output().with_context(|| format!("cannot start {}", program.display()))?;
    ensure!(output.status.success(), "ossia bench failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("ossia bench's output is not JSON")
}

/// The median of each ratio over the rounds: memory's speed changes from minute to minute where a machine has other guests.
fn medians(rounds: &[Vec<(String, f64)>]) -> Vec<(String, f64)> {
    let median = |at: usize| {
        let mut of_rounds: Vec<f64> = rounds.iter().map(|ratios| ratios[at].1).collect();
        of_rounds.sort_by(f64::total_cmp);
        of_rounds[of_rounds.len() / 2]
    };
    rounds[0].iter().enumerate().map(|(at, (name, _))| (name.clone(), median(at))).collect()
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
    fn the_middle_round_counts() {
        let round = |speed: f64| {
            let mut found = found();
            found["results"][0]["tokens_per_s"] = json!(speed);
            found
        };
        let rounds = [90.0, 6.0, 66.0].map(|speed| ratios(&round(speed)).unwrap());
        let ratios = medians(&rounds);
        assert_eq!(ratios[4], ("prefill at depth 0, of decode at 0".to_owned(), 11.0));
    }

    #[test]
    fn speeds_are_compared_line_by_line() {
        let mut after = found();
        after["results"][1]["tokens_per_s"] = json!(9.0);
        let gains = gains(&found(), &after).unwrap();
        assert_eq!((gains.len(), gains[0].1, gains[1].1), (6, 1.0, 1.5));
        after["results"][0]["depth"] = json!(7);
        assert!(super::gains(&found(), &after).unwrap_err().to_string().contains("depth 7"));
    }

    #[test]
    fn a_loss_is_more_than_a_tenth() {
        assert!(!is_loss(0.91, 1.0) && !is_loss(2.0, 1.0));
        assert!(is_loss(0.89, 1.0));
    }
}
