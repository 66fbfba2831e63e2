//! Attention's kernels on the CPU, against the CPU op.

#![allow(clippy::unwrap_used)]

use candle_core::WithDType;
use float8::F8E4M3;
use half::bf16;

use super::super::test_case::{BLOCK_SIZE, Case, spec};
use super::super::words::At;
use super::*;
use crate::check::Random;
use crate::fp8;
use crate::gpu::Grid;
use crate::gpu::twin::{Output, Twin, input};

/// Output and both caches by the kernels' twins.
fn run<T: WithDType>(case: &Case, k_cache: &[T], v_cache: &[T]) -> (Vec<f32>, Vec<T>, Vec<T>) {
    let names = CacheKernels::of(T::DTYPE).unwrap();
    let spec = &case.spec;
    let (n, heads) = (case.slot_mapping.len(), spec.num_attention_heads);
    let words = Words::new(&case.metadata(), &case.slot_mapping);
    let base = input(&words.words);
    let (mut k_cache, mut v_cache) = (k_cache.to_vec(), v_cache.to_vec());
    let mut rotated = Output::new(n * heads * spec.head_dim);
    let args = RopeAndCacheArgs {
        q: input(&case.q),
        k: input(&case.k),
        v: input(&case.v),
        cos: input(&case.cos),
        sin: input(&case.sin),
        slots: words.slots.address(base),
        q_out: rotated.address(),
        k_cache: k_cache.as_mut_ptr() as u64,
        v_cache: v_cache.as_mut_ptr() as u64,
        num_heads: heads as u32,
        num_kv_heads: spec.num_key_value_heads as u32,
        head_dim: spec.head_dim as u32,
    };
    let twin = Twin::of("attention/rope_and_cache.cu");
    twin.launch(names.rope_and_cache, &args, Grid::new([n, ROPE_PARTS, 1], ROPE_THREADS));
    let rotated = rotated.f32s();

    let mut out = Output::new(n * heads * spec.head_dim);
    let caches = [input(&k_cache), input(&v_cache)];
    let run = Run { case, words: &words, base, q: &rotated, caches, names };
    match spec.head_dim {
        TILED_HEAD_DIM => {
            run.few(words.few_tokens, out.address());
            run.many(out.address());
        }
        _ => run.few(words.all_tokens, out.address()),
    }
    (out.f32s(), k_cache, v_cache)
}

/// The attention kernels' twins over rotated queries and a written cache.
struct Run<'a> {
    case: &'a Case,
    words: &'a Words,
    base: u64,
    q: &'a [f32],
    caches: [u64; 2],
    names: CacheKernels,
}

impl Run<'_> {
    fn few(&self, tokens: At, out: u64) {
        let (spec, words, base) = (&self.case.spec, self.words, self.base);
        let max_splits = num_splits(words.max_context_len, spec.sliding_window);
        let parts = tokens.len * spec.num_attention_heads * max_splits;
        let mut part_out = Output::new(parts * spec.head_dim);
        let (mut part_max, mut part_sum) = (Output::new(parts), Output::new(parts));
        let args = PagedAttentionArgs {
            q: input(self.q),
            tokens: tokens.address(base),
            k_cache: self.caches[0],
            v_cache: self.caches[1],
            token_seqs: words.token_seqs.address(base),
            positions: words.positions.address(base),
            table_starts: words.table_starts.address(base),
            first_blocks: words.first_blocks.address(base),
            blocks: words.blocks.address(base),
            sinks: input(&spec.sinks),
            part_out: part_out.address(),
            part_max: part_max.address(),
            part_sum: part_sum.address(),
            out,
            num_heads: spec.num_attention_heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            head_dim: spec.head_dim as u32,
            block_size: BLOCK_SIZE as u32,
            max_splits: max_splits as u32,
            window: spec.sliding_window.unwrap_or(0) as u32,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
        };
        let twin = Twin::of("attention/paged_attention.cu");
        let split = Grid::new([max_splits, spec.num_key_value_heads, tokens.len], SPLIT_THREADS);
        match self.names.few(spec, BLOCK_SIZE) {
            kernel if kernel == self.names.decode => {
                Twin::of("attention/decode_attention.cu").launch(kernel, &args, split);
            }
            kernel => twin.launch(kernel, &args, split),
        }
        for partial in [&part_out, &part_max, &part_sum] {
            partial.check_guards();
        }
        let join = Grid::new([spec.num_attention_heads, tokens.len, 1], JOIN_THREADS);
        twin.launch("paged_attention_join_f32", &args, join);
    }

    fn many(&self, out: u64) {
        let (spec, words, base) = (&self.case.spec, self.words, self.base);
        let args = TiledAttentionArgs {
            q: input(self.q),
            k_cache: self.caches[0],
            v_cache: self.caches[1],
            seqs: words.tiled_seqs.address(base),
            seq_starts: words.seq_starts.address(base),
            context_lens: words.context_lens.address(base),
            table_starts: words.table_starts.address(base),
            first_blocks: words.first_blocks.address(base),
            blocks: words.blocks.address(base),
            sinks: input(&spec.sinks),
            out,
            count: words.tiled_seqs.len as u32,
            num_heads: spec.num_attention_heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            block_size: BLOCK_SIZE as u32,
            window: spec.sliding_window.unwrap_or(0) as u32,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
        };
        let group = spec.num_attention_heads / spec.num_key_value_heads;
        let tiles = words.tiled_lens.iter().map(|len| (len * group).div_ceil(TILE_ROWS)).sum();
        let grid = Grid::new([tiles, spec.num_key_value_heads, 1], TILED_THREADS);
        Twin::of("attention/tiled_attention.cu").launch(self.names.tiled, &args, grid);
    }
}

#[test]
fn the_twins_agree_with_the_cpu_op() {
    let random = &mut Random::fresh();
    // 20b's group of eight heads of 64, a group that does not divide a tile, one head alone, and the largest that fits.
    for (heads, head_dim) in [([16, 2], 64), ([6, 2], 64), ([1, 1], 8), ([16, 1], 128)] {
        for window in [None, Some(1), Some(128), Some(300)] {
            let spec = spec(heads, head_dim, window, random);
            // Decode at block, tile and part boundaries and after them; prefill, whole and in chunks; the first token.
            let lens = [(1, 1), (1, 256), (5, 5), (1, 257), (1, 600), (3, 64), (33, 131), (20, 300)];
            let case = Case::new(spec, &lens, random);
            let context = format!("{heads:?} heads of {head_dim}, window {window:?}");
            check(&case, &case.k_cache, &case.v_cache, &context);
            let [k, v] = [&case.k_cache, &case.v_cache].map(|cache| narrowed(cache));
            check(&case, &k, &v, &format!("{context}, fp8"));
        }
    }
}

/// The twins over a cache against the CPU op over the same.
fn check<T: WithDType>(case: &Case, k_cache: &[T], v_cache: &[T], context: &str) {
    let (found, expected) = (run(case, k_cache, v_cache), case.expected_over(k_cache, v_cache));
    // The tensor cores take queries and weights rounded to bf16.
    let tolerance = if case.spec.head_dim == TILED_HEAD_DIM { 3e-3 } else { 1e-5 };
    let scale = expected.0.iter().fold(0f32, |max, x| max.max(x.abs()));
    for (found, expected) in found.0.iter().zip(&expected.0) {
        assert!((found - expected).abs() <= tolerance * scale, "{context}: {found} {expected}");
    }
    assert!(found.1 == expected.1 && found.2 == expected.2, "{context}: caches differ");
}

fn narrowed(cache: &[bf16]) -> Vec<F8E4M3> {
    cache.iter().map(|x| F8E4M3::from_f32(x.to_f32())).collect()
}

/// With one key and a sink that takes nothing the output is the value, as it was kept.
#[test]
fn every_code_of_fp8_is_kept_and_widened() {
    let random = &mut Random::fresh();
    let codes = (0..=255).map(F8E4M3::from_bits);
    for (heads, head_dim) in [(4, 64), (8, 32)] {
        let mut spec = spec([heads, heads], head_dim, Some(1), random);
        spec.sinks.fill(-1e30);
        // One token alone and four together, which other kernels take.
        let mut case = Case::new(spec, &[(1, 1), (4, 4)], random);
        // Exact in the first token, then on their way to the next code and past the largest one.
        let factors = [1.0, 1.04, 1.0625, 1.09, 1000.0].into_iter().flat_map(|x| [x; 256]);
        case.v = codes.clone().cycle().zip(factors).map(|(code, factor)| code.to_f32() * factor).collect();
        let [k, v] = [&case.k_cache, &case.v_cache].map(|cache| narrowed(cache));
        let out = run(&case, &k, &v).0;
        assert_eq!(out.len(), case.v.len());
        for (found, x) in out.iter().zip(&case.v) {
            let expected = fp8::to_bf16(fp8::to_e4m3(*x)).to_f32();
            assert!(*found == expected || found.is_nan() && expected.is_nan(), "{x}: {found} {expected}");
        }
    }
}

/// A sequence's bits must not hang on who shares its batch.
#[test]
fn the_batch_does_not_show() {
    let random = &mut Random::fresh();
    let spec = spec([16, 2], 64, None, random);
    for lens in [(1, 400), (40, 131)] {
        let alone = Case::new(spec.clone(), &[lens], random);
        let mut batch = Case::new(spec.clone(), &[(7, 300), lens, (1, 500)], random);
        let (width, kv_width) = (16 * 64, 2 * 64);
        let first = 7usize;
        batch.q[first * width..][..alone.q.len()].copy_from_slice(&alone.q);
        for (to, from) in [(&mut batch.k, &alone.k), (&mut batch.v, &alone.v)] {
            to[first * kv_width..][..from.len()].copy_from_slice(from);
        }
        for (to, from) in [(&mut batch.cos, &alone.cos), (&mut batch.sin, &alone.sin)] {
            to[first * 32..][..from.len()].copy_from_slice(from);
        }
        let block_len = BLOCK_SIZE * kv_width;
        let blocks = alone.block_tables[0].blocks.iter().zip(batch.block_tables[1].blocks.clone());
        for (from, to) in blocks {
            let (from, to) = (*from as usize * block_len, to as usize * block_len);
            batch.k_cache[to..to + block_len].copy_from_slice(&alone.k_cache[from..from + block_len]);
            batch.v_cache[to..to + block_len].copy_from_slice(&alone.v_cache[from..from + block_len]);
        }
        let of = |case: &Case| run(case, &case.k_cache, &case.v_cache).0;
        let (found, expected) = (of(&batch), of(&alone));
        assert!(found[first * width..][..expected.len()] == expected, "{lens:?}");
    }
}

#[test]
fn a_window_may_touch_one_more_part() {
    assert_eq!(num_splits(256, None), 1);
    assert_eq!(num_splits(257, None), 2);
    assert_eq!(num_splits(100, Some(128)), 1);
    assert_eq!(num_splits(300, Some(128)), 2);
}
