//! Each op in candle's own ops against the CPU kernels, on fresh random inputs.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use ossia_kernels::{
    AttentionMetadata, AttentionSpec, Backend, BlockTable, ComputeType, CosSin, ExpertWeights, LayerCache,
    Matrix, MoeWeights, Qkv, WeightBytes,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const SEEDS: u64 = 6;

fn generic() -> Backend {
    Backend::generic(&Device::Cpu)
}

fn randoms(count: usize, rng: &mut StdRng) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1f32..1.0)).collect()
}

fn tensor(shape: &[usize], rng: &mut StdRng) -> Tensor {
    Tensor::from_vec(randoms(shape.iter().product(), rng), shape, &Device::Cpu).unwrap()
}

fn bf16_bytes(count: usize, rng: &mut StdRng) -> WeightBytes {
    let values = randoms(count, rng).into_iter();
    WeightBytes::owned(values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect())
}

/// Root mean square of the difference over that of the reference.
fn relative_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let values =
        |t: &Tensor| t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap();
    let (found, expected) = (values(found), values(expected));
    assert!(found.iter().all(|x| x.is_finite()));
    let square = |x: f64| x * x;
    let difference: f64 = found.iter().zip(&expected).map(|(f, e)| square(f - e)).sum();
    (difference / expected.iter().map(|&e| square(e)).sum::<f64>()).sqrt()
}

/// Sums in another order in f32; in bf16 candle's product rounds its result too.
fn tolerance(compute: ComputeType) -> f64 {
    match compute {
        ComputeType::F32 => 1e-5,
        ComputeType::Bf16 => 1e-2,
    }
}

#[test]
fn linear() {
    for seed in 0..SEEDS {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (rows, cols, n) = (rng.random_range(1..100), rng.random_range(1..200), rng.random_range(1..20));
        let weight = Arc::new(Matrix::new(bf16_bytes(rows * cols, rng), DType::BF16, rows, cols).unwrap());
        let bias = Some(randoms(rows, rng));
        let x = tensor(&[n, cols], rng);
        for compute in [ComputeType::F32, ComputeType::Bf16] {
            let run = |backend: Backend| {
                backend.linear(weight.clone(), bias.clone(), compute).unwrap().forward(&x).unwrap()
            };
            let error = relative_error(&run(generic()), &run(Backend::cpu()));
            assert!(error < tolerance(compute), "{rows}x{cols} n={n} {compute:?}: {error}");
        }
    }
}

fn experts(packed: bool, num_experts: usize, rows: usize, cols: usize, rng: &mut StdRng) -> ExpertWeights {
    let count = num_experts * rows * cols;
    if !packed {
        return ExpertWeights::bf16(bf16_bytes(count, rng), num_experts, rows, cols).unwrap();
    }
    let blocks = WeightBytes::owned((0..count / 2).map(|_| rng.random()).collect());
    let scales = WeightBytes::owned((0..count / 32).map(|_| rng.random_range(118..=123)).collect());
    ExpertWeights::mxfp4(blocks, scales, num_experts, rows, cols).unwrap()
}

#[test]
fn moe() {
    for seed in 0..SEEDS {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (num_experts, hidden, inter) = (rng.random_range(4..9), 32 * rng.random_range(1..5), 96);
        let packed = seed % 3 != 0;
        let weights = MoeWeights {
            gate_up: experts(packed, num_experts, 2 * inter, hidden, rng),
            gate_up_bias: randoms(num_experts * 2 * inter, rng),
            down: experts(packed, num_experts, hidden, inter, rng),
            down_bias: randoms(num_experts * hidden, rng),
            experts_per_token: rng.random_range(1..5),
            swiglu_limit: 1.5,
        };
        for n in [1, 2, 33] {
            let (x, logits) = (tensor(&[n, hidden], rng), tensor(&[n, num_experts], rng));
            for compute in [ComputeType::F32, ComputeType::Bf16] {
                let run = |backend: Backend| {
                    backend.moe(weights.clone(), compute).unwrap().forward(&x, &logits).unwrap()
                };
                let error = relative_error(&run(generic()), &run(Backend::cpu()));
                assert!(error < tolerance(compute), "seed {seed} n={n} {compute:?}: {error}");
            }
        }
    }
}

/// Sequences in shuffled blocks: one in mid-prefill, one decoding, one whole prompt.
struct Batch {
    cu_seqlens_q: Vec<u32>,
    context_lens: Vec<u32>,
    block_tables: Vec<BlockTable>,
    slot_mapping: Vec<u32>,
}

const BLOCK_SIZE: usize = 16;
const NUM_BLOCKS: usize = 64;

impl Batch {
    fn new(sequences: &[(usize, usize)], window: Option<usize>) -> Self {
        let mut batch =
            Self { cu_seqlens_q: vec![0], context_lens: vec![], block_tables: vec![], slot_mapping: vec![] };
        let mut free = (0..NUM_BLOCKS).map(|block| (block * 27 + 5) % NUM_BLOCKS);
        for &(num_tokens, context_len) in sequences {
            let first_query = context_len - num_tokens;
            // As the engine does, blocks that no query sees are dropped.
            let first_visible = window.map_or(0, |window| (first_query + 1).saturating_sub(window));
            let first_block = first_visible / BLOCK_SIZE;
            let num_blocks = context_len.div_ceil(BLOCK_SIZE) - first_block;
            let blocks: Vec<u32> = free.by_ref().take(num_blocks).map(|block| block as u32).collect();
            assert_eq!(blocks.len(), num_blocks);
            batch.cu_seqlens_q.push(batch.slot_mapping.len() as u32 + num_tokens as u32);
            batch.context_lens.push(context_len as u32);
            batch.slot_mapping.extend((first_query..context_len).map(|position| {
                let block = blocks[position / BLOCK_SIZE - first_block];
                block * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32
            }));
            batch.block_tables.push(BlockTable { first_block_idx: first_block as u32, blocks });
        }
        batch
    }

    fn metadata(&self) -> AttentionMetadata<'_> {
        AttentionMetadata {
            cu_seqlens_q: &self.cu_seqlens_q,
            context_lens: &self.context_lens,
            block_tables: &self.block_tables,
        }
    }
}

#[test]
fn attention() {
    for (window, dtype) in [(None, DType::F32), (Some(20), DType::F32), (Some(128), DType::BF16)] {
        let rng = &mut StdRng::seed_from_u64(7);
        let (heads, kv_heads, head_dim) = (6, 2, 10);
        let batch = Batch::new(&[(9, 200), (1, 300), (33, 33)], window);
        let n = batch.slot_mapping.len();
        let spec = AttentionSpec {
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            sinks: randoms(heads, rng),
            sliding_window: window,
        };
        let qkv = Qkv {
            q: tensor(&[n, heads * head_dim], rng),
            k: tensor(&[n, kv_heads * head_dim], rng),
            v: tensor(&[n, kv_heads * head_dim], rng),
        };
        let rotary = CosSin { cos: tensor(&[n, head_dim / 2], rng), sin: tensor(&[n, head_dim / 2], rng) };
        let cache = || tensor(&[NUM_BLOCKS, BLOCK_SIZE, kv_heads, head_dim], &mut StdRng::seed_from_u64(8));
        let run = |backend: Backend| {
            let cache = || cache().to_dtype(dtype).unwrap();
            let (k, v) = (cache(), (cache() * 0.5).unwrap());
            let prepared = backend.attention_batch(batch.metadata(), &batch.slot_mapping).unwrap();
            let attention = backend.attention(spec.clone()).unwrap();
            let out = attention.forward(&qkv, &rotary, LayerCache { k: &k, v: &v }, &prepared).unwrap();
            (out, k, v)
        };
        let (found, expected) = (run(generic()), run(Backend::cpu()));
        for (found, expected) in [(found.0, expected.0), (found.1, expected.1), (found.2, expected.2)] {
            let error = relative_error(&found, &expected);
            assert!(error < 1e-5, "window {window:?} {dtype:?}: {error}");
        }
    }
}

#[test]
fn a_slot_or_block_that_is_not_there_is_refused() {
    let rng = &mut StdRng::seed_from_u64(9);
    let spec = AttentionSpec {
        num_attention_heads: 2,
        num_key_value_heads: 1,
        head_dim: 4,
        sinks: vec![0.0; 2],
        sliding_window: None,
    };
    let cache = tensor(&[2, BLOCK_SIZE, 1, 4], rng);
    let copy = cache.copy().unwrap();
    let qkv = Qkv { q: tensor(&[1, 8], rng), k: tensor(&[1, 4], rng), v: tensor(&[1, 4], rng) };
    let rotary = CosSin { cos: tensor(&[1, 2], rng), sin: tensor(&[1, 2], rng) };
    for backend in [generic(), Backend::cpu()] {
        for (slot, block, fits) in [(31, 1, true), (32, 1, false), (31, 2, false)] {
            let tables = [BlockTable { first_block_idx: 0, blocks: vec![block] }];
            let metadata =
                AttentionMetadata { cu_seqlens_q: &[0, 1], context_lens: &[16], block_tables: &tables };
            let slots = [slot];
            let batch = backend.attention_batch(metadata, &slots).unwrap();
            let attention = backend.attention(spec.clone()).unwrap();
            let out = attention.forward(&qkv, &rotary, LayerCache { k: &cache, v: &copy }, &batch);
            assert_eq!(out.is_ok(), fits, "slot {slot} block {block}");
        }
    }
    let uneven = AttentionSpec { num_key_value_heads: 3, ..spec };
    assert!(generic().attention(uneven).is_err());
}
