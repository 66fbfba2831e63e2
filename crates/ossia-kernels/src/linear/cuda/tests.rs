//! The linear layer's kernels on the CPU, against the CPU kernel.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use half::{bf16, f16};

use super::super::test_support::{matrix, on_cpu, on_cpu_of};
use super::*;
use crate::Matrix;
use crate::check::Random;
use crate::gpu::twin::{Output, Twin, assert_close, input};

/// A weight as the kernels read it.
struct OnDevice {
    matrix: Arc<Matrix>,
    values: Vec<u8>,
    double_scales: Vec<f16>,
}

impl OnDevice {
    fn random([rows, cols]: [usize; 2], weights: WeightType, random: &mut Random) -> Self {
        let matrix = matrix(&random.bf16s(rows * cols), [rows, cols]);
        match weights {
            WeightType::Bf16 => {
                let values = matrix.stored().unwrap().0.to_vec();
                Self { matrix: Arc::new(matrix), values, double_scales: vec![] }
            }
            WeightType::Int8 => {
                let matrix = Arc::new(matrix.to_int8());
                let (values, double_scales) = matrix.int8_by_row().unwrap();
                Self { matrix, values, double_scales }
            }
        }
    }

    fn layer(&self, bias: u64, y: &mut Output) -> MmaLayer {
        MmaLayer {
            weight: input(&self.values),
            double_scales: input(&self.double_scales),
            bias,
            y: y.address(),
            rows: self.matrix.rows() as u64,
        }
    }
}

/// Runs some layers' kernel over the tokens `x`, as they are or packed.
fn launch(layers: &[MmaLayer], weights: WeightType, x: &[bf16], cols: usize, is_packed: bool) {
    let num_tokens = x.len() / cols;
    let (kernel, block_rows) = mma_kernel(weights, num_tokens, is_packed);
    let widened: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    let mut args = MmaArgs {
        layers: [MmaLayer::default(); MAX_LAYERS],
        x: if is_packed || num_tokens > MAX_F32_TOKENS { input(x) } else { input(&widened) },
        cols: cols as u32,
        num_tokens: num_tokens as u32,
    };
    args.layers[..layers.len()].copy_from_slice(layers);
    let blocks = layers.iter().map(|layer| (layer.rows as usize).div_ceil(block_rows)).sum();
    let source = match weights {
        WeightType::Bf16 => "linear/bf16_mma.cu",
        WeightType::Int8 => "linear/int8_mma.cu",
    };
    Twin::of(source).launch(kernel, &args, Grid::new([blocks, 1, 1], MMA_THREADS));
}

/// Layers of `all_rows` in one launch, with and without a bias.
fn check(
    all_rows: [usize; MAX_LAYERS],
    cols: usize,
    num_tokens: usize,
    weights: WeightType,
    random: &mut Random,
) {
    let x = random.bf16s(num_tokens * cols);
    let on_device = all_rows.map(|rows| OnDevice::random([rows, cols], weights, random));
    let biases = all_rows.map(|rows| random.f32s(rows));
    let mut outputs = all_rows.map(|rows| Output::new(num_tokens * rows));
    let layers: Vec<MmaLayer> = on_device
        .iter()
        .zip(&mut outputs)
        .enumerate()
        .map(|(i, (weight, y))| weight.layer(if i == 1 { 0 } else { input(&biases[i]) }, y))
        .collect();
    launch(&layers, weights, &x, cols, false);
    let exact: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
    for (i, &rows) in all_rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
        let bias = (i != 1).then(|| biases[i].clone());
        let expected = on_cpu_of(on_device[i].matrix.clone(), bias, &exact);
        let context = format!("layer {i}, {weights:?}, {rows}x{cols}, {num_tokens} tokens");
        assert_close(&outputs[i].f32s(), &expected, &context);
    }
}

#[test]
fn the_twin_agrees_with_the_cpu_kernel() {
    let random = &mut Random::fresh();
    // Columns of less than a warp's step, of odd steps, and of more than the warps take at once.
    for (rows, cols) in [([5, 0, 0], 8), ([37, 16, 3], 264), ([64, 0, 0], 1096)] {
        for num_tokens in [1, 2, 8, 9, 16, 17, 32, 33, 64] {
            check(rows, cols, num_tokens, WeightType::Bf16, random);
            check(rows, cols, num_tokens, WeightType::Int8, random);
        }
    }
}

#[test]
fn a_tokens_bits_do_not_depend_on_how_many_there_are() {
    let random = &mut Random::fresh();
    let (rows, cols) = (40, 1096);
    for weights in [WeightType::Bf16, WeightType::Int8] {
        let (weight, x) = (OnDevice::random([rows, cols], weights, random), random.bf16s(64 * cols));
        let mut first_rows = Vec::new();
        for (num_tokens, is_packed) in [(1, false), (1, true), (9, true), (17, true), (64, true)] {
            let mut y = Output::new(num_tokens * rows);
            launch(&[weight.layer(0, &mut y)], weights, &x[..num_tokens * cols], cols, is_packed);
            first_rows.push(y.f32s()[..rows].to_vec());
        }
        assert!(first_rows.iter().all(|row| *row == first_rows[0]), "{weights:?}");
    }
}

#[test]
fn every_integer_of_8_bits_is_widened() {
    let cols = 256;
    let values: Vec<i8> = (0..=255u8).map(u8::cast_signed).collect();
    // Twice the scale: a plain one, one of next to nothing, and one of the smallest normal numbers.
    for double_scale in [1.0, 6e-8, 6.2e-5] {
        let double_scales = vec![f16::from_f32(double_scale); cols / 32];
        let mut wide = Output::new(cols / 2);
        let args = WidenInt8Args {
            values: input(&values),
            double_scales: input(&double_scales),
            wide: wide.address(),
            cols: cols as u32,
        };
        Twin::of("linear/int8_mma.cu").launch("widen_int8_bf16", &args, Grid::new([1, 1, 1], WIDEN_THREADS));
        let found = wide.u32s().into_iter().flat_map(|pair| [pair as u16, (pair >> 16) as u16]);
        for (found, value) in found.zip(&values) {
            let expected = bf16::from_f32(f32::from(*value) * (double_scales[0].to_f32() / 2.0));
            assert_eq!(found, expected.to_bits(), "{value} with {double_scale}");
        }
    }
}

#[test]
fn a_token_has_the_same_exact_bits_among_many() {
    let random = &mut Random::fresh();
    let (rows, cols) = (33, 1400);
    let (weight, bias, x) = (random.bf16s(rows * cols), random.f32s(rows), random.f32s(66 * cols));
    let outputs = [1, 66].map(|num_tokens| {
        let mut y = Output::new(num_tokens * rows);
        let args = ExactGemvArgs {
            weight: input(&weight),
            bias: input(&bias),
            x: input(&x),
            y: y.address(),
            rows: rows as u32,
            cols: cols as u32,
            num_tokens: num_tokens as u32,
        };
        let (kernel, grid) = exact_kernel(rows, num_tokens);
        Twin::of("linear/exact_gemv.cu").launch(kernel, &args, grid);
        y.f32s()
    });
    assert_eq!(outputs[0], outputs[1][..rows]);
}

#[test]
fn activations_are_rounded_as_on_the_cpu() {
    let mut x = Random::fresh().f32s(8 * 300);
    x[..5].copy_from_slice(&[f32::INFINITY, -0.0, 1.003_906_2, 1e-39, 3.4e38]);
    let mut packed = Output::new(x.len() / 2);
    let args = PackBf16Args { x: input(&x), packed: packed.address(), count: 300 };
    Twin::of("linear/bf16_activations.cu").launch("pack_bf16_f32", &args, Grid::new([2, 1, 1], PACK_THREADS));
    let expected: Vec<u32> = x
        .chunks(2)
        .map(|x| {
            let [low, high] = [x[0], x[1]].map(|x| u32::from(bf16::from_f32(x).to_bits()));
            low | high << 16
        })
        .collect();
    assert_eq!(packed.u32s(), expected);
}

#[test]
fn products_are_widened_with_their_bias() {
    let random = &mut Random::fresh();
    for cols in [2, 600] {
        let (products, bias) = (random.bf16s(3 * cols), random.f32s(cols));
        for with_bias in [true, false] {
            let mut y = Output::new(3 * cols);
            let args = AddBiasArgs {
                products: input(&products),
                bias: if with_bias { input(&bias) } else { 0 },
                y: y.address(),
                cols: cols as u32,
            };
            let grid = Grid::new([cols.div_ceil(2 * BIAS_THREADS as usize), 3, 1], BIAS_THREADS);
            Twin::of("linear/bf16_activations.cu").launch("add_bias_bf16_f32", &args, grid);
            let bias_at = |i: usize| if with_bias { bias[i % cols] } else { 0.0 };
            let expected: Vec<f32> =
                products.iter().enumerate().map(|(i, p)| p.to_f32() + bias_at(i)).collect();
            assert_eq!(y.f32s(), expected);
        }
    }
}

#[test]
fn the_exact_twin_rounds_nothing() {
    let random = &mut Random::fresh();
    for (rows, cols) in [(5, 8), (32, 2880), (37, 264)] {
        let (weight, bias) = (random.bf16s(rows * cols), random.f32s(rows));
        for num_tokens in [1, 5, 66] {
            let x = random.f32s(num_tokens * cols);
            let mut y = Output::new(num_tokens * rows);
            let args = ExactGemvArgs {
                weight: input(&weight),
                bias: input(&bias),
                x: input(&x),
                y: y.address(),
                rows: rows as u32,
                cols: cols as u32,
                num_tokens: num_tokens as u32,
            };
            let (kernel, grid) = exact_kernel(rows, num_tokens);
            Twin::of("linear/exact_gemv.cu").launch(kernel, &args, grid);
            let expected = on_cpu(&weight, Some(bias.clone()), &x, [rows, cols]);
            assert_close(&y.f32s(), &expected, &format!("{rows}x{cols}, {num_tokens} tokens"));
        }
    }
}
