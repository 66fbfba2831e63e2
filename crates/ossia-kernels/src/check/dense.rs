//! Checks of the linear layer, the norm and the embedding.

use std::sync::Arc;

use super::{CheckShapes, OpCheck, Random, compare};
use crate::{Backend, ComputeType, Result};

/// Rows and columns of a weight.
const SMALL: &[(usize, usize)] = &[(37, 264), (5, 40)];
/// q, k, o, router and lm_head of gpt-oss-20b, lm_head cut to a tenth.
const REAL: &[(usize, usize)] = &[(4096, 2880), (512, 2880), (2880, 4096), (32, 2880), (20_108, 2880)];

/// Tokens of a call: decode alone and in batches, prefill.
const TOKENS: &[usize] = &[1, 3, 8, 32, 512];

pub(super) fn check(backend: &Backend, shapes: CheckShapes, random: &mut Random) -> Result<Vec<OpCheck>> {
    let mut checks = Vec::new();
    let real = if shapes == CheckShapes::All { REAL } else { &[] };
    for &(rows, cols) in SMALL.iter().chain(real) {
        let weight = Arc::new(random.matrix(rows, cols)?);
        let bias = random.f32s(rows);
        for &n in TOKENS {
            let x = random.tensor(&[n, cols])?;
            let bytes = 2 * rows * cols + 4 * n * (rows + cols);
            let name = format!("linear {rows}x{cols}, {n} tokens");
            checks.push(compare(name, backend, bytes as u64, |backend| {
                let x = x.to_device(backend.device())?;
                let layer = backend.linear(weight.clone(), Some(bias.clone()), ComputeType::Bf16)?;
                Ok(Box::new(move || layer.forward(&x)))
            })?);
        }
    }
    if backend.takes_int8_on_device() {
        checks.extend(int8(backend, shapes, random)?);
    }
    checks.push(norm(backend, random)?);
    checks.push(embedding(backend, random)?);
    Ok(checks)
}

/// Weights of 8 bits.
fn int8(backend: &Backend, shapes: CheckShapes, random: &mut Random) -> Result<Vec<OpCheck>> {
    let shapes =
        if shapes == CheckShapes::All { &[(37, 264), (4096, 2880), (20_108, 2880)][..] } else { SMALL };
    let mut checks = Vec::new();
    for &(rows, cols) in shapes {
        let weight = Arc::new(random.matrix(rows, cols)?.to_int8());
        for &n in TOKENS {
            let x = random.tensor(&[n, cols])?;
            let bytes = 17 * rows * cols / 16 + 4 * n * (rows + cols);
            let name = format!("linear {rows}x{cols} in 8 bits, {n} tokens");
            checks.push(compare(name, backend, bytes as u64, |backend| {
                let x = x.to_device(backend.device())?;
                let layer = backend.linear(weight.clone(), None, ComputeType::Bf16)?;
                Ok(Box::new(move || layer.forward(&x)))
            })?);
        }
    }
    Ok(checks)
}

fn norm(backend: &Backend, random: &mut Random) -> Result<OpCheck> {
    let (n, width) = (33, 2880);
    let (x, weight) = (random.tensor(&[n, width])?, random.f32s(width));
    compare(format!("rms_norm {width}, {n} tokens"), backend, (8 * n * width) as u64, |backend| {
        let x = x.to_device(backend.device())?;
        let norm = backend.rms_norm(weight.clone(), 1e-5)?;
        Ok(Box::new(move || norm.forward(&x)))
    })
}

fn embedding(backend: &Backend, random: &mut Random) -> Result<OpCheck> {
    let (n, vocab, hidden) = (33u32, 1000, 2880);
    let weight = Arc::new(random.matrix(vocab, hidden)?);
    let ids: Vec<u32> = (0..n).map(|i| i * 29 % vocab as u32).collect();
    let bytes = 6 * n as usize * hidden;
    compare(format!("embedding {vocab}x{hidden}, {n} tokens"), backend, bytes as u64, |backend| {
        let embedding = backend.embedding(weight.clone())?;
        let ids = ids.clone();
        Ok(Box::new(move || embedding.forward(&ids)))
    })
}
