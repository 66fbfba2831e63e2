//! `ossia bench`: prefill (`pp`) and decode (`tg`) speed of a model, in the vocabulary of llama-bench.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::cli::BenchArgs;
use crate::direct::Direct;
use crate::load;
use crate::memory;

/// What is measured: `num_tokens` in all, over `batch` sequences that hold `depth` tokens each.
struct Case {
    test: String,
    depth: usize,
    batch: usize,
    num_tokens: usize,
}

/// One line of the result.
struct Measurement {
    case: Case,
    /// Tokens per second over all sequences: median, least and most of the repetitions.
    tokens_per_s: [f64; 3],
}

/// Runs every combination asked for and prints a table or JSON.
#[allow(clippy::print_stdout)]
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    ensure!(args.repetitions > 0 && args.chunk > 0, "--repetitions and --chunk must be at least 1");
    load::set_threads(args.model.threads);
    let started = Instant::now();
    let model = load::model(&args.model)?;
    let load_s = started.elapsed().as_secs_f64();
    let most = |values: &[usize]| values.iter().copied().max().unwrap_or(0);
    let max_len = most(&args.depth) + most(&args.pp).max(most(&args.tg)) + 1;
    let max_batch = most(&args.batch).max(1);
    let mut direct = Direct::new(model, max_batch, max_len, args.chunk)?;
    let mut results = Vec::new();
    for &depth in &args.depth {
        prefill(&mut direct, max_batch, 0, depth, args.chunk)?;
        for &len in &args.pp {
            let case = Case { test: format!("pp{len}"), depth, batch: 1, num_tokens: len };
            results
                .push(measure(case, args.repetitions, || prefill(&mut direct, 1, depth, len, args.chunk))?);
        }
        for (&len, &batch) in args.tg.iter().flat_map(|len| args.batch.iter().map(move |batch| (len, batch)))
        {
            let case = Case { test: format!("tg{len}"), depth, batch, num_tokens: len * batch };
            results.push(measure(case, args.repetitions, || decode(&mut direct, batch, depth, len))?);
        }
    }
    match args.json {
        true => println!("{}", as_json(&results, load_s)),
        false => print_table(&results, load_s),
    }
    Ok(())
}

/// Runs once to warm up, then `repetitions` times by the clock.
fn measure(case: Case, repetitions: usize, mut run: impl FnMut() -> Result<()>) -> Result<Measurement> {
    let mut speeds = Vec::with_capacity(repetitions);
    run()?;
    for _ in 0..repetitions {
        let started = Instant::now();
        run()?;
        speeds.push(case.num_tokens as f64 / started.elapsed().as_secs_f64());
    }
    speeds.sort_by(f64::total_cmp);
    let tokens_per_s = [speeds[repetitions / 2], speeds[0], speeds[repetitions - 1]];
    Ok(Measurement { case, tokens_per_s })
}

/// Computes positions `start..start + len` of the first `num_seqs` sequences, `chunk` at a time.
fn prefill(direct: &mut Direct, num_seqs: usize, start: usize, len: usize, chunk: usize) -> Result<()> {
    let ids = token_ids(direct, len);
    for (index, part) in ids.chunks(chunk).enumerate() {
        direct.forward(&vec![part; num_seqs], start + index * chunk, false)?;
    }
    Ok(())
}

fn decode(direct: &mut Direct, num_seqs: usize, start: usize, len: usize) -> Result<()> {
    for (index, id) in token_ids(direct, len).iter().enumerate() {
        direct.forward(&vec![std::slice::from_ref(id); num_seqs], start + index, false)?;
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

fn as_json(results: &[Measurement], load_s: f64) -> serde_json::Value {
    let line = |m: &Measurement| {
        let [median, min, max] = m.tokens_per_s;
        let Case { test, depth, batch, .. } = &m.case;
        json!({"test": test, "depth": depth, "batch": batch, "tokens_per_s": median, "min": min, "max": max})
    };
    json!({
        "load_s": load_s,
        "peak_rss_bytes": memory::peak_rss(),
        "results": results.iter().map(line).collect::<Vec<_>>(),
    })
}

#[allow(clippy::print_stdout)]
fn print_table(results: &[Measurement], load_s: f64) {
    println!("| test | depth | batch | tokens/s (median) | min | max |");
    println!("|---|---|---|---|---|---|");
    for Measurement { case: Case { test, depth, batch, .. }, tokens_per_s: [median, min, max] } in results {
        println!("| {test} | {depth} | {batch} | {median:.2} | {min:.2} | {max:.2} |");
    }
    let rss =
        memory::peak_rss().map_or_else(|| "unknown".to_owned(), |bytes| memory::ByteSize(bytes).to_string());
    println!("\nloaded in {load_s:.1} s, peak resident memory {rss}");
}
