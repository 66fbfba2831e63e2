//! The linear layer's kernels on the CPU, against the CPU kernel.

#![allow(clippy::unwrap_used)]

use half::bf16;

use super::super::test_support::on_cpu;
use super::*;
use crate::check::Random;
use crate::gpu::twin::{Output, Twin, assert_close, input};

/// Layers of `all_rows` in one launch, with and without a bias.
fn check(all_rows: [usize; MAX_LAYERS], cols: usize, num_tokens: usize, random: &mut Random) {
    let (kernel, block_rows) = kernel_for(num_tokens).unwrap();
    let x = random.f32s(num_tokens * cols);
    let rounded: Vec<bf16> = x.iter().map(|x| bf16::from_f32(*x)).collect();
    let weights = all_rows.map(|rows| random.bf16s(rows * cols));
    let biases = all_rows.map(|rows| random.f32s(rows));
    let mut outputs = all_rows.map(|rows| Output::new(num_tokens * rows));
    let mut args = Bf16MmaArgs {
        layers: [MmaLayer::default(); MAX_LAYERS],
        x: if num_tokens > MAX_F32_TOKENS { input(&rounded) } else { input(&x) },
        cols: cols as u32,
        num_tokens: num_tokens as u32,
    };
    for (i, args) in args.layers.iter_mut().enumerate() {
        *args = MmaLayer {
            weight: input(&weights[i]),
            bias: if i == 1 { 0 } else { input(&biases[i]) },
            y: outputs[i].address(),
            rows: all_rows[i] as u64,
        };
    }
    let blocks = all_rows.iter().map(|rows| rows.div_ceil(block_rows)).sum();
    Twin::of("linear/bf16_mma.cu").launch(kernel, &args, Grid::new([blocks, 1, 1], MMA_THREADS));
    let exact: Vec<f32> = rounded.iter().map(|x| x.to_f32()).collect();
    for (i, &rows) in all_rows.iter().enumerate().filter(|(_, rows)| **rows > 0) {
        let bias = (i != 1).then(|| biases[i].clone());
        let expected = on_cpu(&weights[i], bias, &exact, [rows, cols]);
        let context = format!("layer {i}, {rows}x{cols}, {num_tokens} tokens");
        assert_close(&outputs[i].f32s(), &expected, &context);
    }
}

#[test]
fn the_twin_agrees_with_the_cpu_kernel() {
    let random = &mut Random::fresh();
    // Columns of less than a warp's step, of odd steps, and of more than the warps take at once.
    for (rows, cols) in [([5, 0, 0], 8), ([37, 16, 3], 264), ([64, 0, 0], 1096)] {
        for num_tokens in [1, 2, 8, 9, 16, 17, 32, 33, 64] {
            check(rows, cols, num_tokens, random);
        }
    }
}

#[test]
fn a_tokens_bits_do_not_depend_on_how_many_there_are() {
    let random = &mut Random::fresh();
    let (rows, cols) = (40, 1096);
    let (weight, x) = (random.bf16s(rows * cols), random.bf16s(64 * cols));
    let mut first_rows = Vec::new();
    for num_tokens in [1, 9, 17, 64] {
        let (kernel, block_rows) = kernel_for(num_tokens).unwrap();
        let widened: Vec<f32> = x.iter().map(|x| x.to_f32()).collect();
        let mut y = Output::new(num_tokens * rows);
        let mut args = Bf16MmaArgs {
            layers: [MmaLayer::default(); MAX_LAYERS],
            x: if num_tokens > MAX_F32_TOKENS { input(&x) } else { input(&widened) },
            cols: cols as u32,
            num_tokens: num_tokens as u32,
        };
        args.layers[0] = MmaLayer { weight: input(&weight), bias: 0, y: y.address(), rows: rows as u64 };
        let grid = Grid::new([rows.div_ceil(block_rows), 1, 1], MMA_THREADS);
        Twin::of("linear/bf16_mma.cu").launch(kernel, &args, grid);
        first_rows.push(y.f32s()[..rows].to_vec());
    }
    assert!(first_rows.iter().all(|row| *row == first_rows[0]));
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
