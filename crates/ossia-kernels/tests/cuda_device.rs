//! Each op that has CUDA kernels of ours on the first CUDA device against the CPU kernels: on a GPU, or over the driver that
//! runs the kernels' CPU twins (`cargo xtask cuda-dry-run`). Shapes are those that need no kernel of candle's.

#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use ossia_kernels::{
    AttentionMetadata, AttentionSpec, Backend, BlockTable, ComputeType, CosSin, DeviceInput, Draw, Drawn,
    ExpertWeights, Filters, LayerCache, Matrix, MoeWeights, Qkv, Uniforms, WeightBytes,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// bf16 activations against the CPU's exact ones.
const TOLERANCE: f64 = 1e-2;

fn device() -> Backend {
    Backend::new(&Device::new_cuda_with_stream(0).unwrap(), ComputeType::Bf16).unwrap()
}

fn randoms(count: usize, rng: &mut StdRng) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-1f32..1.0)).collect()
}

fn tensor(shape: &[usize], rng: &mut StdRng) -> Tensor {
    Tensor::from_vec(randoms(shape.iter().product(), rng), shape, &Device::Cpu).unwrap()
}

fn matrix(rows: usize, cols: usize, rng: &mut StdRng) -> Arc<Matrix> {
    let bytes = randoms(rows * cols, rng).into_iter().flat_map(|w| bf16::from_f32(w).to_le_bytes()).collect();
    Arc::new(Matrix::new(WeightBytes::owned(bytes), DType::BF16, rows, cols).unwrap())
}

/// Calls `run` with the device and with the CPU: norm of the difference over that of the CPU's result.
fn error(run: impl Fn(&Backend) -> Tensor) -> f64 {
    let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (found, expected) = (values(run(&device())), values(run(&Backend::cpu())));
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(&expected).map(|(f, e)| f64::from(f - e)));
    difference / norm(&mut expected.iter().map(|&e| f64::from(e)))
}

fn place(x: &Tensor, backend: &Backend) -> Tensor {
    x.to_device(backend.device()).unwrap()
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn embedding_norm_and_linear() {
    let rng = &mut StdRng::seed_from_u64(1);
    let weight = matrix(50, 264, rng);
    let ids = [49, 0, 7, 7];
    assert_eq!(error(|backend| backend.embedding(weight.clone()).unwrap().forward(&ids).unwrap()), 0.0);
    let (x, branch, scale) = (tensor(&[4, 264], rng), tensor(&[4, 264], rng), randoms(264, rng));
    let sum_and_norm = |backend: &Backend| {
        let norm = backend.rms_norm(scale.clone(), 1e-5).unwrap();
        let (sum, normed) = norm.forward_sum(&place(&x, backend), &place(&branch, backend)).unwrap();
        assert_eq!(sum.to_vec2::<f32>().unwrap(), (&x + &branch).unwrap().to_vec2::<f32>().unwrap());
        normed
    };
    assert!(error(sum_and_norm) < 1e-6);
    let bias = randoms(50, rng);
    for (n, compute, tolerance) in [
        (1, ComputeType::Bf16, TOLERANCE),
        (8, ComputeType::Bf16, TOLERANCE),
        (16, ComputeType::Bf16, TOLERANCE),
        (32, ComputeType::Bf16, TOLERANCE),
        (64, ComputeType::Bf16, TOLERANCE),
        (5, ComputeType::F32, 1e-6),
        (70, ComputeType::F32, 1e-6),
    ] {
        let x = tensor(&[n, 264], rng);
        let error = error(|backend| {
            let layer = backend.linear(weight.clone(), Some(bias.clone()), compute).unwrap();
            layer.forward(&place(&x, backend)).unwrap()
        });
        assert!(error < tolerance, "{n} tokens {compute:?}: {error}");
    }
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn linear_in_8_bits() {
    let rng = &mut StdRng::seed_from_u64(5);
    for (rows, cols) in [(50, 264), (33, 40)] {
        let (weight, bias) = (Arc::new(matrix(rows, cols, rng).to_int8()), randoms(rows, rng));
        // Up to where weights are widened for cuBLAS, more than 64 tokens in turns.
        for n in [1, 8, 16, 32, 64, 70, 130] {
            let x = tensor(&[n, cols], rng);
            let error = error(|backend| {
                let layer = backend.linear(weight.clone(), Some(bias.clone()), ComputeType::Bf16).unwrap();
                layer.forward(&place(&x, backend)).unwrap()
            });
            assert!(error < TOLERANCE, "{rows}x{cols}, {n} tokens: {error}");
        }
    }
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn experts() {
    let rng = &mut StdRng::seed_from_u64(2);
    let (num_experts, hidden, inter) = (6, 96, 64);
    let mut mxfp4 = |rows: usize, cols: usize| {
        let count = num_experts * rows * cols;
        let blocks = WeightBytes::owned((0..count / 2).map(|_| rng.random()).collect());
        let scales = WeightBytes::owned((0..count / 32).map(|_| rng.random_range(118..=123)).collect());
        ExpertWeights::mxfp4(blocks, scales, num_experts, rows, cols).unwrap()
    };
    let (gate_up, down) = (mxfp4(2 * inter, hidden), mxfp4(hidden, inter));
    let weights = MoeWeights {
        gate_up,
        gate_up_bias: randoms(num_experts * 2 * inter, rng),
        down,
        down_bias: randoms(num_experts * hidden, rng),
        experts_per_token: 4,
        swiglu_limit: 7.0,
    };
    // Each kind of tile, and more tokens than are routed at once.
    for n in [1, 3, 9, 20, 60, 260] {
        let (x, logits) = (tensor(&[n, hidden], rng), tensor(&[n, num_experts], rng));
        let error = error(|backend| {
            let moe = backend.moe(weights.clone(), ComputeType::Bf16).unwrap();
            moe.forward(&place(&x, backend), &place(&logits, backend)).unwrap()
        });
        assert!(error < TOLERANCE, "{n} tokens: {error}");
    }
}

const BLOCK_SIZE: usize = 16;
const NUM_BLOCKS: usize = 64;

/// New tokens and context of sequences, in blocks that are not in order.
fn batch(sequences: &[(usize, usize)]) -> (Vec<u32>, Vec<u32>, Vec<BlockTable>, Vec<u32>) {
    let mut free = (0..NUM_BLOCKS).map(|block| ((block * 27 + 5) % NUM_BLOCKS) as u32);
    let (mut cu_seqlens_q, mut context_lens, mut tables, mut slots) = (vec![0], vec![], vec![], vec![]);
    for &(num_tokens, context_len) in sequences {
        let blocks: Vec<u32> = free.by_ref().take(context_len.div_ceil(BLOCK_SIZE)).collect();
        slots.extend((context_len - num_tokens..context_len).map(|position| {
            blocks[position / BLOCK_SIZE] * BLOCK_SIZE as u32 + (position % BLOCK_SIZE) as u32
        }));
        cu_seqlens_q.push(slots.len() as u32);
        context_lens.push(context_len as u32);
        tables.push(BlockTable { first_block_idx: 0, blocks });
    }
    (cu_seqlens_q, context_lens, tables, slots)
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn draws() {
    let rng = &mut StdRng::seed_from_u64(4);
    let (backend, vocab) = (device(), 5000);
    assert!(backend.draws(vocab) && backend.draws(201_088) && !backend.draws(1 << 20));
    let logits = randoms(3 * vocab, rng);
    let on_device = Tensor::from_slice(&logits, (3, vocab), backend.device()).unwrap();
    let argmax = |row: usize, without: Option<usize>| {
        let row = &logits[row * vocab..][..vocab];
        (0..vocab).filter(|&id| Some(id) != without).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
    };
    let greedy = |forbidden: Vec<u32>| Draw { forbidden, ..Draw::plain(0.0, 0.0) };
    let best = argmax(2, None);
    let (free, forbidding) = (greedy(vec![]), greedy(vec![best as u32]));
    // The first and the last token that have a mass.
    let [first, last] = [0.0, 1.0 - 1e-9].map(|uniform| Draw::plain(1.0, uniform));
    // The last one of the two best, by id, and the best one alone, which a nucleus of next to nothing holds.
    let filtered = |uniform, top_k, top_p, forbidden: Vec<u32>| {
        let filters = Filters { top_k, top_p, min_p: 0.0, redraws: Uniforms::new(1, 2) };
        Draw { forbidden, filters: Some(filters), ..Draw::plain(1.0, uniform) }
    };
    let best_of_1 = argmax(1, None);
    let top_2 = filtered(1.0 - 1e-9, 2, 1.0, vec![]);
    let nucleus = filtered(0.5, 0, 1e-9, vec![best as u32]);
    let draws = [(0, &free), (1, &first), (2, &forbidding), (1, &last), (1, &top_2), (2, &nucleus)];
    let expected = [
        argmax(0, None),
        0,
        argmax(2, Some(best)),
        vocab - 1,
        best_of_1.max(argmax(1, Some(best_of_1))),
        argmax(2, Some(best)),
    ];
    let found = backend.draw(&on_device, &draws, &mut DeviceInput::default()).unwrap();
    assert_eq!(found, expected.map(|id| Drawn::Token(id as u32)));
    // Two tokens are allowed, the last one past the mask's end is not.
    let mask =
        (0..4001usize.div_ceil(32)).map(|word| u32::from(word == 0) << 7 | u32::from(word == 125)).collect();
    let masked = Draw { allowed: Some(mask), ..Draw::plain(0.0, 0.0) };
    let found = backend.draw(&on_device, &[(1, &free), (0, &masked)], &mut DeviceInput::default()).unwrap();
    let better = if logits[7] >= logits[4000] { 7 } else { 4000 };
    assert_eq!(found[1], Drawn::Token(better));
    assert!(backend.draw(&on_device, &[(3, &free)], &mut DeviceInput::default()).is_err());
    assert!(Backend::cpu().draw(&on_device, &draws, &mut DeviceInput::default()).is_err());
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn attention() {
    for (head_dim, window, dtype) in [
        (64, None, DType::BF16),
        (64, Some(128), DType::BF16),
        (64, None, DType::F8E4M3),
        (32, None, DType::BF16),
        (32, Some(20), DType::F8E4M3),
    ] {
        let rng = &mut StdRng::seed_from_u64(3);
        let (heads, kv_heads) = (8, 2);
        // Decode, a few tokens, a chunk for the tensor cores.
        let (cu_seqlens_q, context_lens, block_tables, slots) = batch(&[(1, 300), (3, 40), (33, 131)]);
        let n = slots.len();
        let spec = AttentionSpec {
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            sinks: randoms(heads, rng),
            sliding_window: window,
        };
        let mut wide = |width: usize| tensor(&[n, width], rng);
        let qkv = [wide(heads * head_dim), wide(kv_heads * head_dim), wide(kv_heads * head_dim)];
        let rotary = [wide(head_dim / 2), wide(head_dim / 2)];
        let mut cache = || {
            let values = tensor(&[NUM_BLOCKS, BLOCK_SIZE, kv_heads, head_dim], rng);
            values.to_dtype(dtype).unwrap()
        };
        let (k, v) = (cache(), cache());
        let error = error(|backend| {
            let metadata = AttentionMetadata {
                cu_seqlens_q: &cu_seqlens_q,
                context_lens: &context_lens,
                block_tables: &block_tables,
            };
            let (q, rotary) =
                (qkv.each_ref().map(|x| place(x, backend)), rotary.each_ref().map(|x| place(x, backend)));
            let ([q, k_new, v_new], [cos, sin]) = (q, rotary);
            let (k, v) = (place(&k.copy().unwrap(), backend), place(&v.copy().unwrap(), backend));
            let prepared = backend.attention_batch(metadata, &slots).unwrap();
            let attention = backend.attention(spec.clone()).unwrap();
            let qkv = Qkv { q, k: k_new, v: v_new };
            attention.forward(&qkv, &CosSin { cos, sin }, LayerCache { k: &k, v: &v }, &prepared).unwrap()
        });
        assert!(error < TOLERANCE, "heads of {head_dim}, window {window:?}, {dtype:?}: {error}");
    }
}
