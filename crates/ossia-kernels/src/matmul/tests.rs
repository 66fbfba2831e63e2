//! Every path against f64, and every token against itself alone.

use half::bf16;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const PATHS: [Isa; 6] = [Isa::Portable, Isa::Neon, Isa::Avx2, Isa::Avx512, Isa::Avx512Vnni, Isa::Amx];

/// Runs `test` for each path of this processor and names those that it lacks.
fn for_each_path(test: impl Fn(Matmul)) {
    for isa in PATHS {
        if !isa.is_available() {
            eprintln!("SKIPPED: no {} here", isa.name());
            continue;
        }
        for compute in [ComputeType::F32, ComputeType::Bf16] {
            test(Matmul { isa, compute });
        }
    }
}

/// Owned bytes of a random matrix in one of the formats.
struct Weight {
    kind: &'static str,
    bytes: Vec<u8>,
    scales: Vec<u8>,
    rows: usize,
    cols: usize,
}

impl Weight {
    fn random(kind: &'static str, rows: usize, cols: usize, rng: &mut StdRng) -> Self {
        let count = rows * cols;
        let mut scales = Vec::new();
        let bytes: Vec<u8> = match kind {
            "f32" => (0..count).flat_map(|_| rng.random_range(-1f32..1.0).to_le_bytes()).collect(),
            "mxfp4" => {
                scales = (0..count / 32).map(|_| rng.random_range(117..=124)).collect();
                (0..count / 2).map(|_| rng.random()).collect()
            }
            _ => {
                (0..count).flat_map(|_| bf16::from_f32(rng.random_range(-1f32..1.0)).to_le_bytes()).collect()
            }
        };
        // One byte in front, so that nothing is aligned.
        Self { kind, bytes: std::iter::once(0).chain(bytes).collect(), scales, rows, cols }
    }

    fn view(&self) -> MatrixView<'_> {
        let bytes = &self.bytes[1..];
        let format = match self.kind {
            "f32" => Format::F32(bytes),
            "bf16" => Format::Bf16(bytes),
            "bf16 transposed" => Format::Bf16Transposed(bytes),
            _ => Format::Mxfp4 { blocks: bytes, scales: &self.scales },
        };
        MatrixView { format, rows: self.rows, cols: self.cols }
    }
}

fn random_weights(rows: usize, cols: usize, rng: &mut StdRng) -> Vec<Weight> {
    let mut weights: Vec<Weight> =
        ["f32", "bf16", "bf16 transposed"].map(|kind| Weight::random(kind, rows, cols, rng)).into();
    if cols.is_multiple_of(32) {
        weights.push(Weight::random("mxfp4", rows, cols, rng));
    }
    weights
}

fn random_tokens(num_tokens: usize, cols: usize, rng: &mut StdRng) -> Vec<f32> {
    (0..num_tokens * cols).map(|_| rng.random_range(-2f32..2.0)).collect()
}

/// All rows with the tokens named.
fn run(matmul: Matmul, weight: MatrixView<'_>, x: &[f32], tokens: Range<usize>) -> Vec<f32> {
    let mut out = vec![f32::NAN; tokens.len() * weight.rows];
    let packed = matmul.pack(weight, x, tokens);
    multiply(weight, 0..weight.rows, &packed, &mut out);
    out
}

/// Whether the path multiplies activations as bf16.
fn rounds_to_bf16(matmul: Matmul, format: Format<'_>) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matmul.uses_pairs(format) {
        return true;
    }
    matmul.uses_tiles(format)
}

fn check_against_f64(matmul: Matmul, weight: &Weight, x: &[f32], num_tokens: usize) {
    let view = weight.view();
    let y = run(matmul, view, x, 0..num_tokens);
    for t in 0..num_tokens {
        for row in 0..view.rows {
            let (mut sum, mut magnitude) = (0f64, 0f64);
            for col in 0..view.cols {
                let x = x[t * view.cols + col];
                let x = if rounds_to_bf16(matmul, view.format) {
                    bf16::from_f32(x).to_f32()
                } else if matmul.uses_integers(view.format) {
                    // Tokens of these tests are below 2 in magnitude, and blocks reach past 1.
                    (x * 16384.0).round_ties_even() / 16384.0
                } else {
                    x
                };
                let product = f64::from(view.get(row, col)) * f64::from(x);
                sum += product;
                magnitude += product.abs();
            }
            let found = f64::from(y[t * view.rows + row]);
            let bound = 1e-6 * magnitude;
            assert!(
                (found - sum).abs() <= bound,
                "{matmul:?} {} {}x{} token {t} of {num_tokens}, row {row}: {found}, should be {sum}",
                weight.kind,
                view.rows,
                view.cols,
            );
        }
    }
}

#[test]
fn agrees_with_f64_at_edges_of_tiles() {
    let rng = &mut StdRng::seed_from_u64(1);
    for (rows, cols) in [(1, 1), (3, 31), (16, 32), (17, 96), (64, 33), (65, 64), (97, 320), (129, 288)] {
        for num_tokens in [1, 2, 5, 16, 17, 33] {
            let x = random_tokens(num_tokens, cols, rng);
            for weight in random_weights(rows, cols, rng) {
                for_each_path(|matmul| check_against_f64(matmul, &weight, &x, num_tokens));
            }
        }
    }
}

#[test]
fn agrees_with_f64_past_the_chunks_of_wide_products() {
    let rng = &mut StdRng::seed_from_u64(2);
    for (rows, cols, num_tokens) in [(33, 640, 70), (16, 32, 530), (5, 1000, 513), (410, 224, 9)] {
        let x = random_tokens(num_tokens, cols, rng);
        for weight in random_weights(rows, cols, rng) {
            for_each_path(|matmul| check_against_f64(matmul, &weight, &x, num_tokens));
        }
    }
}

#[test]
fn a_token_has_the_same_bits_alone_and_in_any_batch() {
    let rng = &mut StdRng::seed_from_u64(3);
    for (rows, cols) in [(70, 96), (33, 672), (20, 45)] {
        let x = random_tokens(70, cols, rng);
        for weight in random_weights(rows, cols, rng) {
            for_each_path(|matmul| {
                let view = weight.view();
                let alone: Vec<f32> = (0..70).flat_map(|t| run(matmul, view, &x, t..t + 1)).collect();
                for tokens in [0..2, 3..7, 0..16, 5..22, 1..33, 2..50, 0..70] {
                    let batch = run(matmul, view, &x, tokens.clone());
                    let alone = &alone[tokens.start * rows..tokens.end * rows];
                    assert!(same_bits(&batch, alone), "{matmul:?} {} {tokens:?}", weight.kind);
                }
            });
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_range_of_rows() {
    let rng = &mut StdRng::seed_from_u64(4);
    let (rows, cols) = (200, 96);
    for num_tokens in [1, 3, 40] {
        let x = random_tokens(num_tokens, cols, rng);
        for weight in random_weights(rows, cols, rng) {
            for_each_path(|matmul| {
                let view = weight.view();
                let whole = run(matmul, view, &x, 0..num_tokens);
                let packed = matmul.pack(view, &x, 0..num_tokens);
                for range in [0..1, 7..8, 0..64, 64..128, 3..99, 130..200] {
                    let mut part = vec![0f32; num_tokens * range.len()];
                    multiply(view, range.clone(), &packed, &mut part);
                    for t in 0..num_tokens {
                        let whole = &whole[t * rows..][range.clone()];
                        let part = &part[t * range.len()..][..range.len()];
                        assert!(same_bits(whole, part), "{matmul:?} {} {range:?}", weight.kind);
                    }
                }
            });
        }
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// One row of one block whose codes are all `code`, with activations of one.
fn sum_of_block(matmul: Matmul, code: u8, scale: u8, x: f32) -> f32 {
    let weight = Weight {
        kind: "mxfp4",
        bytes: [vec![0], vec![code << 4 | code; 16]].concat(),
        scales: vec![scale],
        rows: 1,
        cols: 32,
    };
    run(matmul, weight.view(), &[x; 32], 0..1)[0]
}

#[test]
fn scales_at_both_ends() {
    for_each_path(|matmul| {
        let sum = |code, scale, x| sum_of_block(matmul, code, scale, x);
        // 255 is NaN in the format: the whole product is, and no other row or token.
        assert!(sum(1, 255, 1.0).is_nan(), "{matmul:?}");
        assert!(sum(0, 255, 1.0).is_nan(), "{matmul:?}");
        assert_eq!(sum(7, 252, 2f32.powi(-100)), 32.0 * 6.0 * 2f32.powi(25), "{matmul:?}");
        // 6 * 2^126 is past the largest f32, and of bf16.
        assert_eq!(sum(7, 253, 1.0), f32::INFINITY, "{matmul:?}");
        assert_eq!(sum(15, 253, 1.0), f32::NEG_INFINITY, "{matmul:?}");
        // 2^-126 is the smallest normal number; below it AMX takes weights as zero.
        assert_eq!(sum(2, 1, 2f32.powi(100)), 32.0 * 2f32.powi(-26), "{matmul:?}");
        let tiles = matmul.isa == Isa::Amx && matmul.compute == ComputeType::Bf16;
        let subnormal = if tiles { 0.0 } else { 32.0 * 2f32.powi(-27) };
        assert_eq!(sum(2, 0, 2f32.powi(100)), subnormal, "{matmul:?}");
    });
}

#[test]
fn an_odd_scale_changes_its_row_and_no_other_bit() {
    let rng = &mut StdRng::seed_from_u64(6);
    let (rows, cols) = (300, 224);
    for num_tokens in [1, 20, 70] {
        let x = random_tokens(num_tokens, cols, rng);
        let clean = Weight::random("mxfp4", rows, cols, rng);
        // NaN, the smallest scale, and one with which some values are infinite.
        for (row, scale) in [(137, 255), (0, 0), (299, 253)] {
            let mut odd = Weight { bytes: clean.bytes.clone(), scales: clean.scales.clone(), ..clean };
            odd.scales[row * cols / 32 + 3] = scale;
            for_each_path(|matmul| {
                let expected = run(matmul, clean.view(), &x, 0..num_tokens);
                let found = run(matmul, odd.view(), &x, 0..num_tokens);
                for (expected, found) in expected.chunks(rows).zip(found.chunks(rows)) {
                    assert!(same_bits(&expected[..row], &found[..row]), "{matmul:?} {scale}");
                    assert!(same_bits(&expected[row + 1..], &found[row + 1..]), "{matmul:?} {scale}");
                    assert_ne!(expected[row].to_bits(), found[row].to_bits(), "{matmul:?} {scale}");
                    // With 253 it depends on whether a path multiplies before it adds.
                    assert!(scale == 253 || found[row].is_finite() == (scale == 0), "{matmul:?} {scale}");
                }
            });
        }
    }
}

#[test]
fn nan_and_infinity_of_one_token_stay_with_it() {
    let rng = &mut StdRng::seed_from_u64(5);
    for num_tokens in [3, 40] {
        let x = random_tokens(num_tokens, 64, rng);
        for weight in random_weights(20, 64, rng) {
            for_each_path(|matmul| {
                let clean = run(matmul, weight.view(), &x, 0..num_tokens);
                let mut x = x.clone();
                x[64] = f32::NAN;
                let dirty = run(matmul, weight.view(), &x, 0..num_tokens);
                assert!(dirty[20..40].iter().all(|v| v.is_nan()), "{matmul:?} {}", weight.kind);
                assert!(same_bits(&clean[..20], &dirty[..20]));
                assert!(same_bits(&clean[40..], &dirty[40..]));
            });
        }
    }
}
