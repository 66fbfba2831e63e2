//! Load time, memory, prefill and decode speed of a model with random weights:
//! `cargo run --release -p ossia-model --example speed -- config.json bf16 128 16 [context]`.
//!
//! Arguments: shape, precision (`f32` or `bf16`), prompt length, tokens to decode, and optionally the context
//! at which decoding starts (the cache in front of it holds zeros).

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use ossia_model::{
    BlockTable, ComputeType, ForwardBatch, GptOss, GptOssConfig, KvMetadata, Logits, ModelOptions,
};

const BLOCK_SIZE: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [config, dtype, prompt_len, num_decode, rest @ ..] = args.as_slice() else {
        return Err("usage: speed CONFIG.JSON f32|bf16 PROMPT_LEN NUM_DECODE [CONTEXT]".into());
    };
    let (prompt_len, num_decode): (usize, usize) = (prompt_len.parse()?, num_decode.parse()?);
    let context = rest.first().map_or(Ok(prompt_len), |context| context.parse())?;
    let compute = if dtype == "f32" { ComputeType::F32 } else { ComputeType::Bf16 };
    let config = GptOssConfig::from_file(Path::new(config))?;

    let started = Instant::now();
    let model = GptOss::dummy(config, 1, &ModelOptions { compute, ..ModelOptions::default() })?;
    let weights = model.weight_bytes() as f64 / 1e9;
    println!("load: {:.1} s, weights {weights:.2} GB, {}", started.elapsed().as_secs_f64(), memory());

    let max_len = prompt_len.max(context) + num_decode;
    let mut cache = model.allocate_kv_cache(2 * max_len.div_ceil(BLOCK_SIZE), BLOCK_SIZE)?;
    let mut run = |start: usize, end: usize| model.forward(&batch(start, end, max_len), &mut cache);
    let started = Instant::now();
    let logits = run(0, prompt_len)?;
    let prefill = started.elapsed().as_secs_f64();
    println!(
        "prefill: {prompt_len} tokens in {prefill:.2} s, {:.1} tokens/s, logits {}, {}",
        prompt_len as f64 / prefill,
        spread(&logits),
        memory()
    );
    let mut times = Vec::new();
    for position in context..context + num_decode {
        let started = Instant::now();
        run(position, position + 1)?;
        times.push(started.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    let (best, median) = (times[0], times[times.len() / 2]);
    println!(
        "decode at {context}: {:.2} tokens/s (median), {:.2} (best), {}",
        1.0 / median,
        1.0 / best,
        memory()
    );
    Ok(())
}

/// Tokens `start..end` of one sequence; full layers use the first half of the blocks, sliding the second.
fn batch(start: usize, end: usize, max_len: usize) -> ForwardBatch {
    let num_blocks = max_len.div_ceil(BLOCK_SIZE) as u32;
    let metadata = |first: u32| KvMetadata {
        block_tables: vec![BlockTable { first_block_idx: 0, blocks: (first..first + num_blocks).collect() }],
        slot_mapping: (start..end).map(|p| first * BLOCK_SIZE as u32 + p as u32).collect(),
    };
    ForwardBatch {
        input_ids: (start..end).map(|p| p as u32 * 7919 % 1000).collect(),
        positions: (start as u32..end as u32).collect(),
        cu_seqlens_q: vec![0, (end - start) as u32],
        context_lens: vec![end as u32],
        full: metadata(0),
        sliding: metadata(num_blocks),
        logits_indices: vec![(end - start) as u32 - 1],
        draw_rows: vec![],
    }
}

/// Mean and standard deviation of the last row: random weights should give finite and varied logits.
fn spread(logits: &Logits) -> String {
    let row = logits.row(logits.rows() - 1);
    let mean = row.iter().sum::<f32>() / row.len() as f32;
    let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / row.len() as f32;
    format!("{mean:.2} +- {:.2}", var.sqrt())
}

/// Resident set, now and at its largest, where the system tells.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim().to_owned();
    format!("RSS {}, peak {}", field("VmRSS:"), field("VmHWM:"))
}
