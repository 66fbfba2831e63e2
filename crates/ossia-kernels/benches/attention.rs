//! Speed of paged attention at gpt-oss-20b's shape (64 query heads, 8 key-value heads, head_dim 64).
//!
//! `cargo bench --workspace --bench attention -- [threads] [decode|prefill] [fp8|int8]`. Every figure is the best of some repetitions.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use candle_core::{Device, Tensor};
use ossia_kernels::{
    AttentionLayer, AttentionMetadata, BlockTable, CacheType, num_threads, paged_attention, set_num_threads,
    write_kv,
};

const HEADS: usize = 64;
const KV_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
const BLOCK_SIZE: usize = 16;

/// The last `num_queries` of a context.
struct Case {
    name: &'static str,
    num_queries: usize,
    context_len: usize,
    sliding_window: Option<usize>,
}

fn main() {
    let threads = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or_else(num_threads);
    set_num_threads(threads);
    let named = |name: &str| std::env::args().any(|arg| arg == name);
    let cache = match (named("fp8"), named("int8")) {
        (true, _) => CacheType::Fp8,
        (_, true) => CacheType::Int8,
        _ => CacheType::Bf16,
    };
    println!("{threads} threads, caches in {cache:?}");
    let case = |name, num_queries, context_len, sliding_window| Case {
        name,
        num_queries,
        context_len,
        sliding_window,
    };
    let chosen = std::env::args().find(|arg| ["decode", "prefill"].contains(&arg.as_str()));
    let cases = [
        case("decode, full", 1, 4096, None),
        case("decode, full", 1, 32768, None),
        case("decode, full", 1, 262_144, None),
        case("decode, sliding", 1, 4096, Some(128)),
        case("prefill, full", 512, 512, None),
        case("prefill, full", 512, 4096, None),
        case("prefill, sliding", 512, 4096, Some(128)),
    ];
    for case in cases.iter().filter(|case| chosen.as_ref().is_none_or(|word| case.name.starts_with(word))) {
        measure(case, cache);
    }
}

fn measure(case: &Case, cache: CacheType) {
    let num_blocks = case.context_len.div_ceil(BLOCK_SIZE);
    let cache = || cache.zeros((num_blocks, BLOCK_SIZE, KV_HEADS, HEAD_DIM), &Device::Cpu).unwrap();
    let (k, v) = (cache(), cache());
    let num_slots = num_blocks * BLOCK_SIZE;
    let values = Tensor::rand(-1f32, 1.0, (num_slots, KV_HEADS, HEAD_DIM), &Device::Cpu).unwrap();
    write_kv(&values, &values, &k, &v, &(0..num_slots as u32).collect::<Vec<_>>()).unwrap();
    let q = Tensor::rand(-1f32, 1.0, (case.num_queries, HEADS, HEAD_DIM), &Device::Cpu).unwrap();
    let layer = AttentionLayer { sinks: &[0.0; HEADS], scale: 0.125, sliding_window: case.sliding_window };
    let metadata = AttentionMetadata {
        cu_seqlens_q: &[0, case.num_queries as u32],
        context_lens: &[case.context_len as u32],
        block_tables: &[BlockTable { first_block_idx: 0, blocks: (0..num_blocks as u32).collect() }],
    };
    let mut best = f64::INFINITY;
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < 1.0 {
        let once = Instant::now();
        paged_attention(&q, &k, &v, &layer, &metadata).unwrap();
        best = best.min(once.elapsed().as_secs_f64());
    }
    // Keys that each query sees, summed; four operations per key and dimension.
    let seen = |position: usize| case.sliding_window.map_or(position + 1, |window| window.min(position + 1));
    let pairs: usize = (case.context_len - case.num_queries..case.context_len).map(seen).sum();
    let flops = 4.0 * (pairs * HEADS * HEAD_DIM) as f64;
    println!(
        "{:16} {:4} queries at {:5}: {:8.3} ms, {:6.1} GFLOP/s",
        case.name,
        case.num_queries,
        case.context_len,
        best * 1e3,
        flops / best / 1e9
    );
}
