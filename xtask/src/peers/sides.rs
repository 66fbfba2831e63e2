//! One turn of one side: the program is run, its JSON becomes lines with the same names on both sides.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::BenchPeersArgs;

/// Who is measured.
pub(super) enum Side<'a> {
    Ossia,
    /// llama.cpp with this file.
    Llama(&'a PathBuf),
}

/// What one turn found.
pub(super) struct Turn {
    pub(super) lines: Vec<Line>,
    /// What memory gave meanwhile; only our program measures it.
    pub(super) read_bytes_per_s: Option<f64>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// What was measured; the same measurement has the same case on all sides.
    pub(super) case: Case,
    pub(super) tokens_per_s: f64,
    /// Share of the ceiling of memory.
    pub(super) roofline_fraction: Option<f64>,
}

/// Decode or prefill, as llama-bench names it, of `batch` sequences with `depth` tokens each.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    pub(super) test: String,
    pub(super) depth: u64,
    pub(super) batch: u64,
}

impl Side<'_> {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Ossia => "ossia".to_owned(),
            Self::Llama(file) => {
                let name = file.file_stem().unwrap_or_default().to_string_lossy();
                format!("llama.cpp {name}")
            }
        }
    }

    /// Runs every case once.
    pub(super) fn measure(&self, args: &BenchPeersArgs) -> Result<Turn> {
        match self {
            Self::Ossia => ossia(args),
            Self::Llama(file) => Ok(Turn { lines: llama(args, file)?, read_bytes_per_s: None }),
        }
    }
}

fn ossia(args: &BenchPeersArgs) -> Result<Turn> {
    let mut turn = Turn { lines: Vec::new(), read_bytes_per_s: None };
    // Depths are of one sequence, batches at depth 0, as on the other side.
    let mut runs = vec![(list(&args.pp), list(&args.depth), "1".to_owned())];
    let batches: Vec<usize> = args.batch.iter().copied().filter(|&batch| batch > 1).collect();
    if !batches.is_empty() {
        runs.push(("0".to_owned(), "0".to_owned(), list(&batches)));
    }
    for (pp, depth, batch) in runs {
        let flags = format!(
            "--pp {pp} --tg {} --depth {depth} --batch {batch} -r 1 -o json --threads {} {}",
            args.tg, args.threads, args.ossia_flags
        );
        let mut command = program(args, &args.ossia);
        command.arg("bench").arg(&args.model).args(flags.split_whitespace());
        let found: Value = serde_json::from_str(&output(command)?).context("ossia's output is not JSON")?;
        let read = [turn.read_bytes_per_s, found["read_bytes_per_s"].as_f64()];
        turn.read_bytes_per_s = read.into_iter().flatten().reduce(f64::max);
        turn.lines.extend(found["results"].as_array().into_iter().flatten().map(ossia_line));
    }
    Ok(turn)
}

fn ossia_line(result: &Value) -> Line {
    Line {
        case: Case {
            test: result["test"].as_str().unwrap_or_default().to_owned(),
            depth: result["depth"].as_u64().unwrap_or_default(),
            batch: result["batch"].as_u64().unwrap_or_default(),
        },
        tokens_per_s: result["tokens_per_s"].as_f64().unwrap_or_default(),
        roofline_fraction: result["roofline_fraction"].as_f64(),
    }
}

fn llama(args: &BenchPeersArgs, file: &Path) -> Result<Vec<Line>> {
    let flags = format!(
        "-p {} -n {} -d {} -r 1 -o json -t {} {}",
        list(&args.pp),
        args.tg,
        list(&args.depth),
        args.threads,
        args.llama_flags
    );
    let mut command = program(args, &args.llama_bin.join("llama-bench"));
    command.arg("-m").arg(file).args(flags.split_whitespace());
    let found: Value = serde_json::from_str(&output(command)?).context("llama-bench's output is not JSON")?;
    let mut lines: Vec<Line> = found.as_array().into_iter().flatten().map(llama_line).collect();
    let batches: Vec<usize> = args.batch.iter().copied().filter(|&batch| batch > 1).collect();
    let Some(most) = batches.iter().max() else { return Ok(lines) };
    // One token of prompt each: batched-bench takes none, and decoding starts at an empty cache on our side.
    let flags = format!(
        "-npp 1 -ntg {} -npl {} -c {} -t {} --output-format jsonl {}",
        args.tg,
        list(&batches),
        most * (args.tg + 2),
        args.threads,
        args.llama_flags
    );
    let mut command = program(args, &args.llama_bin.join("llama-batched-bench"));
    command.arg("-m").arg(file).args(flags.split_whitespace());
    let text = output(command)?;
    let objects = text.lines().filter(|line| line.starts_with('{'));
    for object in objects {
        let found: Value = serde_json::from_str(object).context("llama-batched-bench's line is not JSON")?;
        lines.push(batched_line(&found));
    }
    Ok(lines)
}

fn llama_line(result: &Value) -> Line {
    let number = |name: &str| result[name].as_u64().unwrap_or_default();
    let (prompt, generated) = (number("n_prompt"), number("n_gen"));
    let test = if prompt > 0 { format!("pp{prompt}") } else { format!("tg{generated}") };
    Line {
        case: Case { test, depth: number("n_depth"), batch: 1 },
        tokens_per_s: result["avg_ts"].as_f64().unwrap_or_default(),
        roofline_fraction: None,
    }
}

fn batched_line(result: &Value) -> Line {
    let number = |name: &str| result[name].as_u64().unwrap_or_default();
    Line {
        case: Case { test: format!("tg{}", number("tg")), depth: 0, batch: number("pl") },
        tokens_per_s: result["speed_tg"].as_f64().unwrap_or_default(),
        roofline_fraction: None,
    }
}

/// The program, or what runs it.
fn program(args: &BenchPeersArgs, program: &Path) -> Command {
    match &args.under {
        None => Command::new(program),
        Some(under) => {
            let mut command = Command::new(under);
            command.arg(program);
            command
        }
    }
}

/// What a command prints; its errors go where ours go.
fn output(mut command: Command) -> Result<String> {
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} ended with {}", output.status);
    String::from_utf8(output.stdout).context("the output is not UTF-8")
}

fn list(values: &[usize]) -> String {
    values.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_sides_name_the_same_case_alike() {
        let ours =
            json!({"test": "tg32", "depth": 512, "batch": 1, "tokens_per_s": 5.0, "roofline_fraction": 0.5});
        let theirs = json!({"n_prompt": 0, "n_gen": 32, "n_depth": 512, "avg_ts": 4.0});
        assert_eq!(ossia_line(&ours).case, llama_line(&theirs).case);
        assert_eq!((ossia_line(&ours).tokens_per_s, llama_line(&theirs).tokens_per_s), (5.0, 4.0));
        let ours = json!({"test": "tg32", "depth": 0, "batch": 8, "tokens_per_s": 20.0});
        let theirs = json!({"tg": 32, "pl": 8, "speed_tg": 7.0});
        assert_eq!(ossia_line(&ours).case, batched_line(&theirs).case);
        let prefill = json!({"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 10.0});
        assert_eq!(llama_line(&prefill).case.test, "pp512");
    }
}
