//! Paged attention against its definition, and bit-exactness across everything that must not show.

#![allow(clippy::unwrap_used)]

use candle_core::Device;
use half::bf16;

use super::*;
use crate::fp8::{to_bf16, to_e4m3};
use crate::int8_heads;

const NUM_BLOCKS: usize = 128;

/// Reproducible values in -1..1.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let step = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| step(&mut state)).collect()
}

/// Sequences of a given context with keys and values in shuffled blocks of a shared cache.
struct Case {
    shape: AttentionShape,
    sinks: Vec<f32>,
    window: Option<usize>,
    context_lens: Vec<u32>,
    tables: Vec<BlockTable>,
    /// Per sequence, `[context, heads, head_dim]`.
    q: Vec<Vec<f32>>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Case {
    fn new(shape: AttentionShape, window: Option<usize>, context_lens: &[u32], shuffle: usize) -> Self {
        let kv_len = shape.num_kv_heads * shape.head_dim;
        let mut case = Self {
            shape,
            sinks: noise(9, shape.num_heads),
            window,
            context_lens: context_lens.to_vec(),
            tables: Vec::new(),
            q: Vec::new(),
            // What no token wrote must not matter, as long as it is finite.
            k: vec![1e3; NUM_BLOCKS * shape.block_size * kv_len],
            v: vec![-1e3; NUM_BLOCKS * shape.block_size * kv_len],
        };
        let mut next_block = 0usize;
        for (seq, &context_len) in context_lens.iter().enumerate() {
            let context_len = context_len as usize;
            let num_blocks = context_len.div_ceil(shape.block_size);
            let ids = next_block..next_block + num_blocks;
            let blocks: Vec<u32> = ids.map(|block| ((block * shuffle) % NUM_BLOCKS) as u32).collect();
            next_block += num_blocks;
            case.q.push(noise(seq as u64 + 1, context_len * shape.num_heads * shape.head_dim));
            let k = noise(seq as u64 + 100, context_len * kv_len);
            let v = noise(seq as u64 + 200, context_len * kv_len);
            for position in 0..context_len {
                let block = blocks[position / shape.block_size] as usize;
                let at = (block * shape.block_size + position % shape.block_size) * kv_len;
                let from = position * kv_len..(position + 1) * kv_len;
                case.k[at..at + kv_len].copy_from_slice(&k[from.clone()]);
                case.v[at..at + kv_len].copy_from_slice(&v[from]);
            }
            case.tables.push(BlockTable { first_block_idx: 0, blocks });
        }
        assert!(next_block <= NUM_BLOCKS);
        case
    }

    fn layer(&self) -> AttentionLayer<'_> {
        AttentionLayer { sinks: &self.sinks, scale: 0.3, sliding_window: self.window }
    }

    /// Runs `f` with the op over the last `num_queries` of `seqs` at contexts `context_lens`.
    fn with_op<R>(&self, parts: &[(usize, u32, u32)], f: impl FnOnce(&PagedAttention, &[f32]) -> R) -> R {
        let token_len = self.shape.num_heads * self.shape.head_dim;
        let (mut cu_seqlens_q, mut context_lens, mut tables, mut q) = (vec![0], vec![], vec![], vec![]);
        for &(seq, start, end) in parts {
            cu_seqlens_q.push(cu_seqlens_q.last().unwrap() + end - start);
            context_lens.push(end);
            tables.push(self.tables[seq].clone());
            q.extend_from_slice(&self.q[seq][start as usize * token_len..end as usize * token_len]);
        }
        let metadata = AttentionMetadata {
            cu_seqlens_q: &cu_seqlens_q,
            context_lens: &context_lens,
            block_tables: &tables,
        };
        let op = PagedAttention { layer: self.layer(), metadata, shape: self.shape };
        let num_tokens = *cu_seqlens_q.last().unwrap() as usize;
        metadata.check(self.window, [NUM_BLOCKS, self.shape.block_size], num_tokens).unwrap();
        f(&op, &q)
    }

    fn whole(&self) -> Vec<(usize, u32, u32)> {
        self.context_lens.iter().enumerate().map(|(seq, &len)| (seq, 0, len)).collect()
    }
}

/// Caches of heads of `head_dim` numbers.
fn as_is<'a, T>(shape: AttentionShape, k: &'a [T], v: &'a [T]) -> Caches<'a, T> {
    Caches::AsIs(HeadsOfSlots::all(shape.num_kv_heads, shape.head_dim, k, v))
}

fn shape(num_heads: usize, num_kv_heads: usize, head_dim: usize, block_size: usize) -> AttentionShape {
    AttentionShape { num_heads, num_kv_heads, head_dim, block_size }
}

#[test]
fn agrees_with_the_definition() {
    let shapes = [
        shape(8, 1, 64, 16),
        shape(6, 2, 10, 5),
        shape(1, 1, 2, 1),
        shape(80, 1, 8, 32),
        shape(12, 4, 32, 16),
    ];
    for shape in shapes {
        for window in [None, Some(1), Some(7), Some(128)] {
            for contexts in [&[1u32][..], &[17, 1, 30], &[63], &[64]] {
                let contexts: Vec<u32> =
                    contexts.iter().map(|&len| len.min(20 * shape.block_size as u32)).collect();
                check_against_definition(&Case::new(shape, window, &contexts, 5));
            }
        }
    }
    check_against_definition(&Case::new(shape_of_20b(), Some(128), &[300, 129], 5));
    check_against_definition(&Case::new(shape_of_20b(), None, &[300, 129], 5));
}

fn shape_of_20b() -> AttentionShape {
    shape(16, 2, 64, 16)
}

fn check_against_definition(case: &Case) {
    check_paths(case, &case.k, &case.v);
    let [k, v] = [&case.k, &case.v].map(|cache| rounded(cache));
    check_paths(case, &k, &v);
}

fn check_paths<T: cpu::KvElement>(case: &Case, k: &[T], v: &[T]) {
    let widened = |cache: &[T]| -> Vec<f32> { cache.iter().map(|x| x.to_f32()).collect() };
    case.with_op(&case.whole(), |op, q| {
        let expected = reference::attend(op, q, &widened(k), &widened(v));
        for (name, path) in cpu::available_paths::<T>(case.shape) {
            let out = cpu::attend_with(op, q, as_is(op.shape, k, v), &path, 2);
            // These round queries and probabilities to bf16.
            let tolerance = if ["avx512_bf16", "amx"].contains(&name) { 4e-3 } else { 2e-5 };
            for (out, expected) in out.iter().zip(&expected) {
                assert!((out - expected).abs() < tolerance, "{name} {:?}: {out} {expected}", op.shape);
            }
        }
    });
}

fn rounded(cache: &[f32]) -> Vec<bf16> {
    cache.iter().map(|&x| bf16::from_f32(x)).collect()
}

#[test]
fn bits_depend_on_nothing_but_the_query_and_its_context() {
    let shapes = [
        (shape_of_20b(), None),
        (shape_of_20b(), Some(128)),
        (shape(3, 1, 6, 16), Some(7)),
        (shape(5, 1, 128, 5), None),
    ];
    for (shape, window) in shapes {
        // More than one span, if there are enough blocks for that.
        let len = 1100.min(shape.block_size as u32 * 100);
        let case = Case::new(shape, window, &[len, 77], 5);
        let elsewhere = Case::new(shape, window, &[len, 77], 11);
        check_bits([&case, &elsewhere], [&case.k, &case.v, &elsewhere.k, &elsewhere.v].map(Vec::as_slice));
        let bf16s = [&case.k, &case.v, &elsewhere.k, &elsewhere.v].map(|cache| rounded(cache));
        check_bits([&case, &elsewhere], bf16s.each_ref().map(Vec::as_slice));
    }
}

/// The same two sequences in other blocks, with keys and values of each.
fn check_bits<T: cpu::KvElement>([case, elsewhere]: [&Case; 2], [k, v, other_k, other_v]: [&[T]; 4]) {
    let (shape, len) = (case.shape, case.context_lens[0]);
    let token_len = shape.num_heads * shape.head_dim;
    for (name, path) in cpu::available_paths::<T>(shape) {
        let run = |parts: &[(usize, u32, u32)], threads: usize| {
            case.with_op(parts, |op, q| cpu::attend_with(op, q, as_is(op.shape, k, v), &path, threads))
        };
        let alone = run(&[(0, 0, len)], 1);
        let both = elsewhere.with_op(&[(1, 0, 77), (0, 0, len)], |op, q| {
            cpu::attend_with(op, q, as_is(op.shape, other_k, other_v), &path, 2)
        });
        assert_eq!(alone, both[77 * token_len..], "{name} {shape:?}");
        for chunk in [1u32, 7, 64, 100] {
            let mut out = Vec::new();
            for start in (0..len).step_by(chunk as usize) {
                out.extend(run(&[(0, start, len.min(start + chunk))], 2));
            }
            assert_eq!(out, alone, "{name} {shape:?}, chunks of {chunk}");
        }
    }
}

#[test]
fn few_rows_over_bf16_caches_have_the_bits_of_many() {
    let shapes =
        [shape_of_20b(), shape(6, 2, 32, 16), shape(12, 1, 64, 32), shape(20, 1, 64, 16), shape(4, 1, 64, 5)];
    for (shape, window) in shapes.into_iter().flat_map(|shape| [None, Some(7), Some(128)].map(|w| (shape, w)))
    {
        let context = if shape.block_size == 5 { 300 } else { 1100 };
        let case = Case::new(shape, window, &[context], 5);
        let (k, v) = (rounded(&case.k), rounded(&case.v));
        for (name, path) in cpu::available_paths::<bf16>(shape) {
            let run = |first: u32, end: u32| {
                case.with_op(&[(0, first, end)], |op, q| {
                    cpu::attend_with(op, q, as_is(op.shape, &k, &v), &path, 2)
                })
            };
            let whole = run(0, context);
            for num_queries in 1..=3 {
                let starts =
                    (0..20).chain([63, 64, 65, 127, 128, 130, 200, 255, 290, 1022, 1024, 1030, context - 3]);
                for first in starts.map(|first| first.min(context - num_queries)) {
                    let range =
                        [first, first + num_queries].map(|at| at as usize * shape.num_heads * shape.head_dim);
                    let found = run(first, first + num_queries);
                    assert_eq!(found, whole[range[0]..range[1]], "{name} {shape:?} {window:?} {first}");
                }
            }
        }
    }
}

#[test]
fn slots_that_nobody_sees_may_hold_no_numbers() {
    for (window, contexts) in [(None, [300u32, 129]), (Some(7), [300, 129]), (Some(128), [299, 1])] {
        let shape = shape_of_20b();
        let case = Case::new(shape, window, &contexts, 5);
        let no_number = |x: &f32| bf16::from_f32(if x.abs() == 1e3 { f32::NAN } else { *x });
        let [k, v] = [&case.k, &case.v].map(|cache| cache.iter().map(no_number).collect::<Vec<bf16>>());
        let (finite_k, finite_v) = (rounded(&case.k), rounded(&case.v));
        for (name, path) in cpu::available_paths::<bf16>(shape) {
            // A whole prompt, and one query that reads the cache as it lies.
            let last = case.context_lens.iter().enumerate().map(|(seq, &len)| (seq, len - 1, len)).collect();
            for parts in [case.whole(), last] {
                let run = |k: &[bf16], v: &[bf16]| {
                    case.with_op(&parts, |op, q| cpu::attend_with(op, q, as_is(op.shape, k, v), &path, 2))
                };
                assert_eq!(run(&k, &v), run(&finite_k, &finite_v), "{name} {window:?}");
            }
        }
    }
}

#[test]
fn dropped_blocks_do_not_show() {
    let mut case = Case::new(shape_of_20b(), Some(128), &[300], 5);
    let run = |case: &Case| {
        case.with_op(&[(0, 299, 300)], |op, q| cpu::attend(op, q, as_is(op.shape, &case.k, &case.v)))
    };
    let before = run(&case);
    // Position 299 sees 172 onwards: blocks 0 to 9 may go.
    case.tables[0].blocks.drain(..10);
    case.tables[0].first_block_idx = 10;
    assert_eq!(run(&case), before);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn avx2_and_avx512_give_the_same_bits() {
    let case = Case::new(shape_of_20b(), None, &[300], 5);
    let fused: Vec<_> =
        cpu::available_paths::<f32>(case.shape).into_iter().filter(|(name, _)| *name != "portable").collect();
    let outs: Vec<Vec<f32>> = case.with_op(&[(0, 0, 300)], |op, q| {
        fused
            .iter()
            .map(|(_, path)| cpu::attend_with(op, q, as_is(op.shape, &case.k, &case.v), path, 1))
            .collect()
    });
    assert!(outs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn bf16_caches_are_widened_exactly() {
    let case = Case::new(shape_of_20b(), Some(128), &[200], 5);
    let (k, v) = (rounded(&case.k), rounded(&case.v));
    let [wide_k, wide_v] = [&k, &v].map(|cache| cache.iter().map(|x| x.to_f32()).collect::<Vec<_>>());
    case.with_op(&case.whole(), |op, q| {
        let wide = cpu::available_paths::<f32>(case.shape);
        for (name, path) in cpu::available_paths::<bf16>(case.shape) {
            let Some((_, wide)) = wide.iter().find(|(wide, _)| *wide == name) else { continue };
            let found = cpu::attend_with(op, q, as_is(op.shape, &k, &v), &path, 1);
            assert_eq!(found, cpu::attend_with(op, q, as_is(op.shape, &wide_k, &wide_v), wide, 1), "{name}");
        }
    });
}

#[test]
fn narrow_caches_give_the_bits_of_what_they_are_widened_to() {
    for (shape, window) in [
        (shape_of_20b(), None),
        (shape_of_20b(), Some(128)),
        (shape(6, 2, 10, 5), Some(70)),
        (shape(12, 4, 32, 5), None),
    ] {
        let case = Case::new(shape, window, &[200, 77], 5);
        let (dim, len) = (shape.head_dim, int8_heads::head_len(shape.head_dim));
        let codes = [&case.k, &case.v].map(|cache| cache.iter().map(|x| to_e4m3(*x)).collect::<Vec<_>>());
        let wide = codes.each_ref().map(|codes| codes.iter().map(|x| to_bf16(*x)).collect::<Vec<_>>());
        check_narrow(
            &case,
            Caches::E4m3(HeadsOfSlots::all(shape.num_kv_heads, dim, &codes[0], &codes[1])),
            &wide,
        );

        let bytes = [&case.k, &case.v].map(|cache| {
            let mut bytes = vec![0; cache.len() / dim * len];
            cache.chunks(dim).zip(bytes.chunks_mut(len)).for_each(|(x, to)| int8_heads::narrow(x, to));
            bytes
        });
        let wide = bytes.each_ref().map(|bytes| {
            let mut wide = vec![bf16::ZERO; bytes.len() / len * dim];
            let heads = bytes.chunks(len).zip(wide.chunks_mut(dim));
            heads.for_each(|(from, to)| int8_heads::widen(from, to, cpu::KvElement::of_f32));
            wide
        });
        check_narrow(
            &case,
            Caches::Int8(HeadsOfSlots::all(shape.num_kv_heads, len, &bytes[0], &bytes[1])),
            &wide,
        );
    }
}

/// Whole prompts and single queries, on every path.
fn check_narrow(case: &Case, narrow: Caches<bf16>, [k, v]: &[Vec<bf16>; 2]) {
    let last = case.context_lens.iter().enumerate().map(|(seq, &len)| (seq, len - 1, len)).collect();
    for parts in [case.whole(), last] {
        case.with_op(&parts, |op, q| {
            for (name, path) in cpu::available_paths(case.shape) {
                let run = |caches| cpu::attend_with(op, q, caches, &path, 2);
                let (found, expected) = (run(narrow), run(as_is(op.shape, k, v)));
                assert_eq!(found, expected, "{name} {:?} {:?} {parts:?}", case.shape, case.window);
            }
        });
    }
}

#[test]
fn bad_metadata_is_refused() {
    let case = Case::new(shape(2, 1, 4, 16), None, &[20], 5);
    let q = Tensor::from_slice(&case.q[0], (20, 2, 4), &Device::Cpu).unwrap();
    let cache = |data: &[f32]| Tensor::from_slice(data, (NUM_BLOCKS, 16, 1, 4), &Device::Cpu).unwrap();
    let (k, v) = (cache(&case.k), cache(&case.v));
    let run = |cu_seqlens_q: &[u32], context_lens: &[u32], tables: &[BlockTable]| {
        let metadata = AttentionMetadata { cu_seqlens_q, context_lens, block_tables: tables };
        paged_attention(&q, &k, &v, &case.layer(), &metadata)
    };
    let good = &case.tables;
    assert_eq!(run(&[0, 20], &[20], good).unwrap().dims(), [20, 8]);
    let table =
        |first_block_idx, blocks: &[u32]| vec![BlockTable { first_block_idx, blocks: blocks.to_vec() }];
    assert!(run(&[0, 19], &[20], good).is_err(), "a query without a sequence");
    assert!(run(&[0, 20], &[19], good).is_err(), "more queries than context");
    assert!(run(&[0, 20], &[20], &table(0, &[0])).is_err(), "too few blocks");
    assert!(run(&[0, 20], &[20], &table(1, &[0, 1])).is_err(), "blocks dropped that are seen");
    assert!(run(&[0, 20], &[20], &table(0, &[0, NUM_BLOCKS as u32])).is_err(), "a block that is not there");
    assert!(run(&[0, 20], &[20, 0], good).is_err(), "two sequences, one table");
}
