//! Linear and MoeExperts as the model uses them: against f64, alone and in batches, on one thread and two.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use ossia_kernels::{
    ComputeType, ExpertWeights, Isa, KernelError, Linear, Matrix, MoeExperts, MoeWeights, SWIGLU_ALPHA,
    WeightBytes, set_num_threads,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const E2M1: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// All paths of this processor with both precisions; those that it lacks are named.
fn paths() -> Vec<(Isa, ComputeType)> {
    let isas = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni, Isa::Amx];
    for isa in isas.iter().filter(|isa| !isa.is_available()) {
        eprintln!("SKIPPED: no {} here", isa.name());
    }
    let available = isas.into_iter().filter(|isa| isa.is_available());
    available.flat_map(|isa| [(isa, ComputeType::F32), (isa, ComputeType::Bf16)]).collect()
}

fn randoms(count: usize, scale: f32, rng: &mut StdRng) -> Vec<f32> {
    (0..count).map(|_| rng.random_range(-scale..scale)).collect()
}

fn tensor(values: &[f32], width: usize) -> Tensor {
    Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Only tiles need activations in bf16.
fn rounded(x: f32, path: (Isa, ComputeType)) -> f64 {
    f64::from(if path == (Isa::Amx, ComputeType::Bf16) { bf16::from_f32(x).to_f32() } else { x })
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, context: &str) {
    let scale = expected.iter().fold(0f64, |max, v| max.max(v.abs()));
    assert_eq!(found.len(), expected.len(), "{context}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*f) - e).abs();
        assert!(difference <= tolerance * scale, "{context}: element {i} is {f}, should be {e}");
    }
}

/// A random bf16 matrix with its values.
fn bf16_bytes(count: usize, rng: &mut StdRng) -> (Vec<u8>, Vec<f64>) {
    let values: Vec<bf16> = (0..count).map(|_| bf16::from_f32(rng.random_range(-1f32..1.0))).collect();
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    (bytes, values.iter().map(|v| v.to_f64()).collect())
}

fn linear(rows: usize, cols: usize, rng: &mut StdRng) -> (Arc<Matrix>, Vec<f32>, Vec<f64>) {
    let (bytes, weights) = bf16_bytes(rows * cols, rng);
    let matrix = Matrix::new(WeightBytes::owned(bytes), DType::BF16, rows, cols).unwrap();
    (Arc::new(matrix), randoms(rows, 1.0, rng), weights)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn linear_agrees_with_f64(rows in 1usize..150, cols in 1usize..150, n in 1usize..40, seed: u64) {
        let rng = &mut StdRng::seed_from_u64(seed);
        let (matrix, bias, weights) = linear(rows, cols, rng);
        let any = randoms(n * cols, 2.0, rng);
        // With these it shows nowhere whether a path rounds activations to bf16, which not every processor makes worth while.
        let of_bf16: Vec<f32> = any.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
        for (isa, compute) in paths() {
            let x = if compute == ComputeType::Bf16 { &of_bf16 } else { &any };
            let layer = Linear::new(matrix.clone(), Some(bias.clone()), compute).unwrap().on(isa).unwrap();
            let y = values(&layer.forward(&tensor(x, cols)).unwrap());
            let mut expected = Vec::new();
            for x in x.chunks(cols) {
                for (row, bias) in weights.chunks(cols).zip(&bias) {
                    let sum: f64 = row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum();
                    expected.push(sum + f64::from(*bias));
                }
            }
            assert_close(&y, &expected, 1e-5, &format!("{isa:?} {compute:?} {rows}x{cols} n={n}"));
        }
    }
}

/// Experts with their values, `[num_experts, rows, cols]`.
fn mxfp4(num_experts: usize, rows: usize, cols: usize, rng: &mut StdRng) -> (ExpertWeights, Vec<f64>) {
    let count = num_experts * rows * cols;
    let blocks: Vec<u8> = (0..count / 2).map(|_| rng.random()).collect();
    let scales: Vec<u8> = (0..count / 32).map(|_| rng.random_range(120..=125)).collect();
    let value = |at: usize| {
        let code = (blocks[at / 2] >> (4 * (at % 2))) & 15;
        let sign = if code < 8 { 1.0 } else { -1.0 };
        sign * E2M1[usize::from(code & 7)] * 2f64.powi(i32::from(scales[at / 32]) - 127)
    };
    let values = (0..count).map(value).collect();
    let (blocks, scales) = (WeightBytes::owned(blocks), WeightBytes::owned(scales));
    (ExpertWeights::mxfp4(blocks, scales, num_experts, rows, cols).unwrap(), values)
}

/// As [`mxfp4`], in the layout of bf16 checkpoints.
fn bf16_experts(num_experts: usize, rows: usize, cols: usize, rng: &mut StdRng) -> (ExpertWeights, Vec<f64>) {
    let (bytes, stored) = bf16_bytes(num_experts * rows * cols, rng);
    let at = |e: usize, r: usize, c: usize| stored[(e * cols + c) * rows + r];
    let values = (0..num_experts)
        .flat_map(|e| (0..rows).flat_map(move |r| (0..cols).map(move |c| at(e, r, c))))
        .collect();
    (ExpertWeights::bf16(WeightBytes::owned(bytes), num_experts, rows, cols).unwrap(), values)
}

struct Moe {
    weights: MoeWeights,
    gate_up: Vec<f64>,
    down: Vec<f64>,
    hidden: usize,
    inter: usize,
}

const NUM_EXPERTS: usize = 6;
const TOP_K: usize = 3;

fn moe(packed: bool, hidden: usize, inter: usize, rng: &mut StdRng) -> Moe {
    let experts = if packed { mxfp4 } else { bf16_experts };
    let (gate_up_weights, gate_up) = experts(NUM_EXPERTS, 2 * inter, hidden, rng);
    let (down_weights, down) = experts(NUM_EXPERTS, hidden, inter, rng);
    let weights = MoeWeights {
        gate_up: gate_up_weights,
        gate_up_bias: randoms(NUM_EXPERTS * 2 * inter, 1.0, rng),
        down: down_weights,
        down_bias: randoms(NUM_EXPERTS * hidden, 1.0, rng),
        experts_per_token: TOP_K,
        swiglu_limit: 7.0,
    };
    Moe { weights, gate_up, down, hidden, inter }
}

impl Moe {
    fn op(&self, (isa, compute): (Isa, ComputeType)) -> MoeExperts {
        MoeExperts::new(self.weights.clone(), compute).unwrap().on(isa).unwrap()
    }

    fn run(&self, path: (Isa, ComputeType), x: &[f32], logits: &[f32]) -> Vec<f32> {
        let (x, logits) = (tensor(x, self.hidden), tensor(logits, NUM_EXPERTS));
        values(&self.op(path).forward(&x, &logits).unwrap())
    }

    /// One token in f64, rounding activations where the op does.
    fn expected(&self, x: &[f32], logits: &[f32], path: (Isa, ComputeType)) -> Vec<f64> {
        let mut order: Vec<usize> = (0..NUM_EXPERTS).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        order.truncate(TOP_K);
        let exps: Vec<f64> = order.iter().map(|e| f64::from(logits[*e] - logits[order[0]]).exp()).collect();
        let mut y = vec![0f64; self.hidden];
        for (expert, exp) in order.iter().zip(&exps) {
            let weight = exp / exps.iter().sum::<f64>();
            for (y, v) in y.iter_mut().zip(self.expert(*expert, x, path)) {
                *y += weight * v;
            }
        }
        y
    }

    fn expert(&self, expert: usize, x: &[f32], path: (Isa, ComputeType)) -> Vec<f64> {
        let x: Vec<f64> = x.iter().map(|x| rounded(*x, path)).collect();
        let gate_up = project(&self.gate_up, &self.weights.gate_up_bias, expert, 2 * self.inter, &x);
        let act: Vec<f64> = gate_up
            .chunks(2)
            .map(|gu| {
                let (gate, up) = (gu[0].min(7.0), gu[1].clamp(-7.0, 7.0));
                let act = (up + 1.0) * gate / (1.0 + (-f64::from(SWIGLU_ALPHA) * gate).exp());
                rounded(act as f32, path)
            })
            .collect();
        project(&self.down, &self.weights.down_bias, expert, self.hidden, &act)
    }
}

fn project(weights: &[f64], bias: &[f32], expert: usize, rows: usize, x: &[f64]) -> Vec<f64> {
    (expert * rows..(expert + 1) * rows)
        .map(|row| {
            let weights = &weights[row * x.len()..(row + 1) * x.len()];
            weights.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + f64::from(bias[row])
        })
        .collect()
}

#[test]
fn experts_agree_with_f64() {
    let rng = &mut StdRng::seed_from_u64(7);
    for (packed, hidden, inter) in [(true, 96, 64), (false, 96, 64), (false, 40, 23), (true, 32, 160)] {
        let moe = moe(packed, hidden, inter, rng);
        for n in [1, 2, 40] {
            let (x, logits) = (randoms(n * hidden, 1.0, rng), randoms(n * NUM_EXPERTS, 3.0, rng));
            for path in paths() {
                let tokens = x.chunks(hidden).zip(logits.chunks(NUM_EXPERTS));
                let tolerance = match path {
                    // An activation next to a rounding boundary of bf16 may fall to either side.
                    (Isa::Amx, ComputeType::Bf16) => 3e-3,
                    // Integers keep 15 bits of the largest of each 32 activations.
                    (Isa::Neon | Isa::Avx2 | Isa::Avx512Vnni, ComputeType::Bf16) => 2e-4,
                    _ => 1e-5,
                };
                let expected: Vec<f64> = tokens.flat_map(|(x, l)| moe.expected(x, l, path)).collect();
                let context = format!("{path:?} mxfp4={packed} {hidden}/{inter} n={n}");
                assert_close(&moe.run(path, &x, &logits), &expected, tolerance, &context);
            }
        }
    }
}

#[test]
fn a_token_alone_equals_the_token_in_any_batch() {
    let rng = &mut StdRng::seed_from_u64(8);
    for packed in [true, false] {
        let moe = moe(packed, 96, 64, rng);
        let (x, logits) = (randoms(70 * 96, 1.0, rng), randoms(70 * NUM_EXPERTS, 3.0, rng));
        for path in paths() {
            let part = |from: usize, to: usize| {
                moe.run(path, &x[from * 96..to * 96], &logits[from * NUM_EXPERTS..to * NUM_EXPERTS])
            };
            let alone: Vec<f32> = (0..70).flat_map(|t| part(t, t + 1)).collect();
            for (from, to) in [(0, 2), (1, 8), (0, 17), (13, 46), (0, 70)] {
                assert_same_bits(
                    &part(from, to),
                    &alone[from * 96..to * 96],
                    &format!("{path:?} {from}..{to}"),
                );
            }
        }
    }
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let rng = &mut StdRng::seed_from_u64(9);
    let (rows, cols) = (1500, 544);
    let (matrix, bias, _) = linear(rows, cols, rng);
    let moe = moe(true, 512, 320, rng);
    for n in [1, 3, 100] {
        let x = tensor(&randoms(n * cols, 1.0, rng), cols);
        let (moe_x, logits) = (randoms(n * 512, 1.0, rng), randoms(n * NUM_EXPERTS, 3.0, rng));
        for (isa, compute) in paths() {
            let layer = Linear::new(matrix.clone(), Some(bias.clone()), compute).unwrap().on(isa).unwrap();
            let run = |threads| {
                set_num_threads(threads);
                (values(&layer.forward(&x).unwrap()), moe.run((isa, compute), &moe_x, &logits))
            };
            let (one, three) = (run(1), run(3));
            assert_same_bits(&one.0, &three.0, &format!("linear {isa:?} {compute:?} n={n}"));
            assert_same_bits(&one.1, &three.1, &format!("moe {isa:?} {compute:?} n={n}"));
        }
    }
}

fn assert_same_bits(a: &[f32], b: &[f32], context: &str) {
    assert_eq!(a.len(), b.len(), "{context}");
    let differing = a.iter().zip(b).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differing, None, "{context}");
}

#[test]
fn no_tokens_are_no_error() {
    let rng = &mut StdRng::seed_from_u64(10);
    let (matrix, bias, _) = linear(20, 33, rng);
    let moe = moe(true, 32, 32, rng);
    for (isa, compute) in paths() {
        let layer = Linear::new(matrix.clone(), Some(bias.clone()), compute).unwrap().on(isa).unwrap();
        let y = layer.forward(&Tensor::zeros((0, 33), DType::F32, &Device::Cpu).unwrap()).unwrap();
        assert_eq!(y.dims(), [0, 20]);
        let x = Tensor::zeros((0, 32), DType::F32, &Device::Cpu).unwrap();
        let logits = Tensor::zeros((0, NUM_EXPERTS), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(moe.op((isa, compute)).forward(&x, &logits).unwrap().dims(), [0, 32]);
    }
}

#[test]
fn errors_name_what_was_expected_and_found() {
    let bytes = |len: usize| WeightBytes::owned(vec![0; len]);
    let message = |result: Result<_, KernelError>| result.err().unwrap().to_string();
    assert_eq!(
        message(Matrix::new(bytes(11), DType::BF16, 2, 3).map(|_| ())),
        "matrix of shape [2, 3] needs 12 bytes, found 11"
    );
    assert_eq!(
        message(Matrix::new(bytes(6), DType::U8, 2, 3).map(|_| ())),
        "weights must be bf16 or f32, found U8"
    );
    assert_eq!(
        message(ExpertWeights::mxfp4(bytes(2 * 3 * 32), bytes(11), 2, 3, 64).map(|_| ())),
        "MXFP4 scales of shape [2, 3, 2] needs 12 bytes, found 11"
    );
    assert_eq!(
        message(ExpertWeights::mxfp4(bytes(0), bytes(0), 1, 1, 33).map(|_| ())),
        "MXFP4 needs a multiple of 32 columns, found 33"
    );
    assert_eq!(
        message(ExpertWeights::bf16(bytes(10), 1, 2, 3).map(|_| ())),
        "bf16 experts of shape [1, 3, 2] needs 12 bytes, found 10"
    );
    let huge = message(Matrix::new(bytes(0), DType::F32, usize::MAX, 3).map(|_| ()));
    assert!(huge.ends_with("found 0"), "{huge}");
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let rng = &mut StdRng::seed_from_u64(11);
    let (matrix, _, _) = linear(4, 8, rng);
    assert!(Linear::new(matrix.clone(), Some(vec![0.0; 3]), ComputeType::F32).is_err());
    let layer = Linear::new(matrix, None, ComputeType::F32).unwrap();
    let message = |x: &Tensor| layer.forward(x).err().unwrap().to_string();
    let wide = Tensor::zeros((2, 9), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(message(&wide), "linear: x should be [n, 8], found [2, 9]");
    let bf16 = Tensor::zeros((2, 8), DType::BF16, &Device::Cpu).unwrap();
    assert_eq!(message(&bf16), "linear takes f32 activations, found BF16");

    let moe = moe(true, 32, 32, rng);
    let mut weights = moe.weights.clone();
    weights.down_bias.pop();
    let error = MoeExperts::new(weights, ComputeType::F32).err().unwrap().to_string();
    assert_eq!(error, "moe: down bias should be [192], found [191]");
    let mut weights = moe.weights.clone();
    weights.experts_per_token = NUM_EXPERTS + 1;
    assert!(MoeExperts::new(weights, ComputeType::F32).is_err());
    let op = moe.op((Isa::Portable, ComputeType::F32));
    let x = Tensor::zeros((2, 32), DType::F32, &Device::Cpu).unwrap();
    let logits = Tensor::zeros((3, NUM_EXPERTS), DType::F32, &Device::Cpu).unwrap();
    let error = op.forward(&x, &logits).err().unwrap().to_string();
    assert_eq!(error, "moe: router logits should be [2, 6], found [3, 6]");
}

#[test]
fn a_transposed_tensor_is_made_contiguous() {
    let rng = &mut StdRng::seed_from_u64(12);
    let (matrix, bias, _) = linear(5, 7, rng);
    let layer = Linear::new(matrix, Some(bias), ComputeType::F32).unwrap();
    // [7, 3] seen as [3, 7].
    let x = tensor(&randoms(21, 1.0, rng), 3).t().unwrap();
    let copy = Tensor::from_vec(values(&x), (3, 7), &Device::Cpu).unwrap();
    assert!(!x.is_contiguous());
    let (a, b) = (layer.forward(&x).unwrap(), layer.forward(&copy).unwrap());
    assert_same_bits(&values(&a), &values(&b), "transposed");
}
