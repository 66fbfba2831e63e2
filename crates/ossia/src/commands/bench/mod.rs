//! `ossia bench`: prefill (`pp`) and decode (`tg`) speed of a model, in the vocabulary of llama-bench, beside
//! what the machine's memory allows.

pub(crate) mod args;
mod plot;
mod report;
mod serve;
mod traffic;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use ossia_kernels::Backend;

use self::args::{BenchArgs, BenchCommand, BenchSpeedArgs, OutputFormat};
use self::report::{Case, Measurement, Report, Test};
use self::traffic::Traffic;
use crate::direct::Direct;
use crate::{device_speed, load, memory};

/// Read for the ceiling of memory: many times the last-level cache.
const CEILING_BYTES: usize = 512 << 20;

/// Measures a model, or a server.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    match &args.command {
        Some(BenchCommand::Serve(args)) => serve::run(args),
        None => speed(&args.speed),
    }
}

/// Runs every combination asked for, prints a table or JSON, draws the plot.
#[allow(clippy::print_stdout)]
fn speed(args: &BenchSpeedArgs) -> Result<()> {
    ensure!(args.repetitions > 0 && args.chunk > 0, "--repetitions and --chunk must be at least 1");
    ensure!(!args.batch.contains(&0), "--batch must be at least 1");
    load::set_threads(&args.model.threads)?;
    let started = Instant::now();
    let model = load::model(&args.model)?;
    let load_s = started.elapsed().as_secs_f64();
    let positions = model.config().max_position_embeddings;
    ensure!(
        longest(args) <= positions,
        "--depth with --pp or --tg comes to {} tokens; the model has {positions} positions",
        longest(args)
    );
    let backend = model.backend().clone();
    let num_ranks = model.num_ranks();
    let before = read_speed(&backend, num_ranks)?;
    let traffic = Traffic::of(&model);
    let mut direct = Direct::new(model, most(&args.batch), longest(args), args.chunk)?;
    direct.fill_cache()?;
    let mut measurements = Vec::new();
    for case in cases(args) {
        tracing::info!("{} at depth {}, batch {}", case.name(), case.depth, case.batch);
        measurements.push(measure(&mut direct, case, args)?);
    }
    drop(direct);
    let report = Report {
        model: args.model.name(),
        threads: ossia_kernels::num_threads(),
        isa: ossia_kernels::Isa::in_full(),
        load_s,
        peak_rss: memory::peak_rss(),
        // Whatever else ran may have slowed one of them: the ceiling is what was reached.
        read_bytes_per_s: before.max(read_speed(&backend, num_ranks)?),
        traffic,
        measurements,
    };
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&report))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    match args.output {
        OutputFormat::Json => println!("{}", report.json()),
        OutputFormat::Md => print!("{}", report.markdown()),
    }
    Ok(())
}

/// Bytes per second that the memory of `backend` gives, or that of as many devices as there are ranks.
fn read_speed(backend: &Backend, num_ranks: usize) -> Result<f64> {
    match backend.device().is_cpu() {
        true => Ok(ossia_kernels::measure_read_speed(CEILING_BYTES, ossia_kernels::num_threads(), 5)),
        false => Ok(num_ranks as f64 * device_speed::copy_bytes_per_s(backend.device())?),
    }
}

fn most(values: &[usize]) -> usize {
    values.iter().copied().max().unwrap_or(0)
}

fn longest(args: &BenchSpeedArgs) -> usize {
    most(&args.depth) + most(&args.pp).max(most(&args.tg)) + 1
}

/// Every combination; prefill is measured for one sequence.
fn cases(args: &BenchSpeedArgs) -> Vec<Case> {
    let mut cases = Vec::new();
    for &depth in &args.depth {
        let prefill = args.pp.iter().map(|&len| Case { test: Test::Prefill, len, depth, batch: 1 });
        cases.extend(prefill);
        for &len in &args.tg {
            let decode = args.batch.iter().map(|&batch| Case { test: Test::Decode, len, depth, batch });
            cases.extend(decode);
        }
    }
    cases.retain(|case| case.len > 0);
    cases
}

/// Runs once to warm up, then by the clock.
fn measure(direct: &mut Direct, case: Case, args: &BenchSpeedArgs) -> Result<Measurement> {
    let mut speeds = Vec::with_capacity(args.repetitions);
    for repetition in 0..=args.repetitions {
        let started = Instant::now();
        match case.test {
            Test::Prefill => prefill(direct, &case, args.chunk)?,
            Test::Decode => decode(direct, &case)?,
        }
        if repetition > 0 {
            speeds.push(case.num_tokens() as f64 / started.elapsed().as_secs_f64());
        }
    }
    speeds.sort_by(f64::total_cmp);
    Ok(Measurement { case, speeds })
}

/// Computes a prompt, `chunk` tokens at a time.
fn prefill(direct: &mut Direct, case: &Case, chunk: usize) -> Result<()> {
    let ids = token_ids(direct, case.len);
    for (index, part) in ids.chunks(chunk).enumerate() {
        direct.decode(&[part], case.depth + index * chunk)?;
    }
    Ok(())
}

/// Decodes a different text in each sequence, so that they choose different experts.
fn decode(direct: &mut Direct, case: &Case) -> Result<()> {
    let ids = token_ids(direct, case.num_tokens());
    for (index, step) in ids.chunks(case.batch).enumerate() {
        let input_ids: Vec<&[u32]> = step.chunks(1).collect();
        direct.decode(&input_ids, case.depth + index)?;
    }
    Ok(())
}

/// Well-spread token ids, the same at each run.
fn token_ids(direct: &Direct, len: usize) -> Vec<u32> {
    let vocab_size = direct.model().config().vocab_size as u64;
    (0..len as u64)
        .map(|index| (index.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33).wrapping_rem(vocab_size) as u32)
        .collect()
}
