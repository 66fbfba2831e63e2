//! Every way against the definition in plain Rust, to the bit.

#![allow(clippy::unwrap_used)]

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::mxfp4;

/// What the module promises, value by value.
fn define(weight: MatrixView<'_>, row: usize, x: &[f32]) -> f32 {
    let mut parts = [0f32; 4];
    for (block, x) in x.chunks(BLOCK).enumerate() {
        let max = x.iter().fold(0f32, |max, x| max.max(x.abs()));
        let exponent = if max < 2f32.powi(-100) { -100 } else { max.log2().floor() as i32 };
        let step = 2f64.powi(exponent - 14);
        let scale = scale_of(weight, row, block);
        let mut sum = 0i64;
        for (col, x) in x.iter().enumerate() {
            let q = (f64::from(*x) / step).round_ties_even().clamp(-32768.0, 32767.0) as i64;
            let w = if scale == 0.0 { 0.0 } else { 2.0 * weight.get(row, block * BLOCK + col) / scale };
            assert_eq!(w, w.round());
            sum += q * w as i64;
        }
        let scale = scale * (step / 2.0) as f32;
        parts[block % 4] = (sum as f32).mul_add(scale, parts[block % 4]);
    }
    (parts[0] + parts[2]) + (parts[1] + parts[3])
}

/// Twice the step of a block's weights.
fn scale_of(weight: MatrixView<'_>, row: usize, block: usize) -> f32 {
    match weight.format {
        Format::Mxfp4 { scales, .. } => mxfp4::decode_scale(scales[row * weight.cols / BLOCK + block]),
        Format::Int8(view) => {
            let at = (row / LANES * view.num_blocks + block) * LANES + row % LANES;
            view.double_scales[at].to_f32()
        }
        _ => panic!("another format"),
    }
}

#[test]
fn every_way_with_8_and_10_bits_is_the_definition_to_the_bit() {
    let rng = &mut StdRng::seed_from_u64(12);
    for (rows, cols) in [(1, 5), (16, 32), (33, 100), (70, 736)] {
        let bytes = (0..rows * cols).flat_map(|_| rng.random_range(-0.1f32..0.1).to_le_bytes()).collect();
        let matrix =
            crate::Matrix::new(crate::WeightBytes::owned(bytes), candle_core::DType::F32, rows, cols);
        let matrix = matrix.unwrap();
        check(matrix.to_int8().view(), rng);
        check(matrix.to_int10().view(), rng);
    }
}

#[test]
fn every_way_with_mxfp4_is_the_definition_to_the_bit() {
    let rng = &mut StdRng::seed_from_u64(11);
    for (rows, cols) in [(1, 32), (5, 96), (33, 128), (64, 160), (70, 736)] {
        let blocks: Vec<u8> = (0..rows * cols / 2).map(|_| rng.random()).collect();
        let scales: Vec<u8> = (0..rows * cols / 32).map(|_| rng.random_range(100..140)).collect();
        let weight = MatrixView { format: Format::Mxfp4 { blocks: &blocks, scales: &scales }, rows, cols };
        check(weight, rng);
    }
}

/// Every number of tokens that takes another way, against [`define`].
fn check(weight: MatrixView<'_>, rng: &mut StdRng) {
    let (rows, cols) = (weight.rows, weight.cols);
    for num_tokens in (1..=12).chain([13, 15, 17, 19, 21, 23, 24, 32, 33, 40]) {
        let spread = rng.random_range(0..40);
        let value =
            |rng: &mut StdRng| rng.random_range(-2f32..2.0) * 2f32.powi(rng.random_range(-spread..=spread));
        let x: Vec<f32> = (0..num_tokens * cols).map(|_| value(rng)).collect();
        let mut out = vec![f32::NAN; num_tokens * rows];
        for isa in [Isa::Neon, Isa::Avx2, Isa::Avx512Vnni] {
            if !isa.is_available() {
                eprintln!("SKIPPED: no {} here", isa.name());
                continue;
            }
            out.fill(f32::NAN);
            // SAFETY: the instructions are there, and `x` is packed for the weight.
            unsafe {
                let x = Int16Rows::pack(isa, weight.format, cols, x.chunks(cols));
                multiply(weight, 0..rows, &x, &mut out);
            }
            check_bits(weight, &x, &out);
        }
        #[cfg(target_arch = "x86_64")]
        if Isa::Avx2.is_available() {
            out.fill(f32::NAN);
            // SAFETY: as above; AVX2's own way, which AVX-VNNI's has replaced where it is there.
            unsafe {
                let x = Int16Rows::pack(Isa::Avx2, weight.format, cols, x.chunks(cols));
                multiply_with::<avx2::Avx2<false>>(weight, 0..rows, &x, &mut out);
            }
            check_bits(weight, &x, &out);
        }
        #[cfg(target_arch = "aarch64")]
        {
            out.fill(f32::NAN);
            // SAFETY: as above; NEON's own way, which that of its products of bytes has replaced where they are.
            unsafe {
                let x = Int16Rows::pack_with::<neon::Neon>(Isa::Neon, weight.format, cols, x.chunks(cols));
                multiply_with::<neon::Neon>(weight, 0..rows, &x, &mut out);
            }
            check_bits(weight, &x, &out);
        }
        #[cfg(target_arch = "x86_64")]
        if let Format::Int8(view) = weight.format
            && Isa::Amx.is_available()
        {
            out.fill(f32::NAN);
            // SAFETY: AMX is there, and `x` is packed for the weight.
            unsafe {
                let x = Int16Tiles::pack(cols, x.chunks(cols));
                multiply_tiles(view, 0..rows, &x, &mut out);
            }
            check_bits(weight, &x, &out);
        }
    }
}

/// `out` `[num_tokens, rows]` against [`define`].
fn check_bits(weight: MatrixView<'_>, x: &[f32], out: &[f32]) {
    let (rows, cols) = (weight.rows, weight.cols);
    for (t, x) in x.chunks(cols).enumerate() {
        for row in 0..rows {
            let (found, expected) = (out[t * rows + row], define(weight, row, x));
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{rows}x{cols}, token {t}, row {row}: {found}, should be {expected}"
            );
        }
    }
}
