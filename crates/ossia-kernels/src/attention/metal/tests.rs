//! Attention's Metal kernels on the CPU, against the CPU op.

use half::bf16;

use super::super::test_case::{BLOCK_SIZE, Case, spec};
use super::super::words::{At, Words};
use super::*;
use crate::check::Random;
use crate::gpu::Grid;
use crate::gpu::twin::{Output, Twin, input};

/// Output and both caches by the kernels' twins.
fn run(case: &Case) -> (Vec<f32>, Vec<bf16>, Vec<bf16>) {
    let spec = &case.spec;
    let (n, heads) = (case.slot_mapping.len(), spec.num_attention_heads);
    let words = Words::new(&case.metadata(), &case.slot_mapping);
    let base = input(&words.words);
    let (mut k_cache, mut v_cache) = (case.k_cache.clone(), case.v_cache.clone());
    let mut rotated = Output::new(n * heads * spec.head_dim);
    let args = RopeAndCacheArgs {
        num_heads: heads as u32,
        num_kv_heads: spec.num_key_value_heads as u32,
        head_dim: spec.head_dim as u32,
    };
    let inputs = [&case.q, &case.k, &case.v, &case.cos, &case.sin].map(|values| input(values));
    let caches = [k_cache.as_mut_ptr() as u64, v_cache.as_mut_ptr() as u64];
    let buffers = [&inputs[..], &[words.slots.address(base), rotated.address()], &caches].concat();
    let twin = Twin::of("attention/rope_and_cache.metal");
    twin.launch_metal("rope_and_cache_f32_bf16", &buffers, &args, Grid::new([n, 1, 1], THREADS));

    let rotated = rotated.f32s();
    let mut out = Output::new(n * heads * spec.head_dim);
    let run = Run { case, words: &words, base, q: &rotated, caches };
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
}

impl Run<'_> {
    fn few(&self, tokens: At, out: u64) {
        let spec = &self.case.spec;
        let args = PagedAttentionArgs {
            num_heads: spec.num_attention_heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            head_dim: spec.head_dim as u32,
            block_size: BLOCK_SIZE as u32,
            window: spec.sliding_window.unwrap_or(0) as u32,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
        };
        let buffers = self.buffers([tokens, self.words.token_seqs, self.words.positions], out);
        let twin = Twin::of("attention/paged_attention.metal");
        let grid = Grid::new([spec.num_attention_heads, tokens.len, 1], THREADS);
        twin.launch_metal("paged_attention_bf16", &buffers, &args, grid);
    }

    fn many(&self, out: u64) {
        let (spec, words) = (&self.case.spec, self.words);
        let args = TiledAttentionArgs {
            count: words.tiled_seqs.len as u32,
            num_heads: spec.num_attention_heads as u32,
            num_kv_heads: spec.num_key_value_heads as u32,
            block_size: BLOCK_SIZE as u32,
            window: spec.sliding_window.unwrap_or(0) as u32,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
        };
        let buffers = self.buffers([words.tiled_seqs, words.seq_starts, words.context_lens], out);
        let group = spec.num_attention_heads / spec.num_key_value_heads;
        let tiles: usize = words.tiled_lens.iter().map(|len| (len * group).div_ceil(TILE_ROWS)).sum();
        // One more than there are: it has nothing to do.
        let grid = Grid::new([tiles + 1, spec.num_key_value_heads, 1], TILED_THREADS);
        let twin = Twin::of("attention/tiled_attention.metal");
        twin.launch_metal("tiled_attention_f32_bf16", &buffers, &args, grid);
    }

    /// As the device's side gives them.
    fn buffers(&self, [first, second, third]: [At; 3], out: u64) -> Vec<u64> {
        let words = self.words;
        let lists = [first, second, third, words.table_starts, words.first_blocks, words.blocks];
        let lists = lists.map(|at| at.address(self.base));
        let (queries, ends) = ([input(self.q)], [input(&self.case.spec.sinks), out]);
        [&queries[..], &self.caches, &lists, &ends].concat()
    }
}

#[test]
fn the_twins_agree_with_the_cpu_op() {
    let random = &mut Random::fresh();
    for (heads, head_dim) in [([8, 2], 64), ([3, 3], 10), ([4, 1], 128)] {
        for window in [None, Some(1), Some(128)] {
            // The first token, block boundaries, prefill, and fewer keys than simdgroups.
            let lens = [(1, 1), (1, 256), (5, 5), (1, 300), (20, 131), (41, 200)];
            let case = Case::new(spec(heads, head_dim, window, random), &lens, random);
            let (found, expected) = (run(&case), case.expected());
            let context = format!("{heads:?} heads of {head_dim}, window {window:?}");
            let scale = expected.0.iter().fold(0f32, |max, x| max.max(x.abs()));
            for (found, expected) in found.0.iter().zip(&expected.0) {
                assert!((found - expected).abs() <= 1e-5 * scale, "{context}: {found} {expected}");
            }
            assert!(found.1 == expected.1 && found.2 == expected.2, "{context}: caches differ");
        }
    }
}

/// A sequence's bits must not hang on where in a batch it stands.
#[test]
fn a_repeated_sequence_has_the_same_bits() {
    let random = &mut Random::fresh();
    let mut case = Case::new(spec([4, 2], 32, Some(50), random), &[(1, 200), (3, 90), (1, 200)], random);
    let width = 4 * 32;
    let (first, last) = (0, 4);
    case.q.copy_within(first * width..(first + 1) * width, last * width);
    case.k.copy_within(0..64, last * 64);
    case.v.copy_within(0..64, last * 64);
    case.cos.copy_within(0..16, last * 16);
    case.sin.copy_within(0..16, last * 16);
    let pairs = case.block_tables[0].blocks.iter().zip(&case.block_tables[2].blocks);
    for (&from, &to) in pairs {
        let len = BLOCK_SIZE * 64;
        let (from, to) = (from as usize * len, to as usize * len);
        case.k_cache.copy_within(from..from + len, to);
        case.v_cache.copy_within(from..from + len, to);
    }
    let out = run(&case).0;
    assert!(out[..width] == out[last * width..][..width]);
}
