//! Checks of the experts.

use super::{CheckShapes, OpCheck, Random, compare};
use crate::{Backend, ComputeType, MoeWeights, Result};

/// Experts, hidden and intermediate width.
const SMALL: (usize, usize, usize) = (5, 96, 64);
/// A layer of gpt-oss-20b.
const REAL: (usize, usize, usize) = (32, 2880, 2880);

/// Tokens of a call: decode alone and in batches, prefill.
const TOKENS: &[usize] = &[1, 3, 8, 32, 128];

const TOP_K: usize = 4;

pub(super) fn check(backend: &Backend, shapes: CheckShapes, random: &mut Random) -> Result<Vec<OpCheck>> {
    let mut checks = Vec::new();
    let real = (shapes == CheckShapes::All).then_some(REAL);
    for (num_experts, hidden, inter) in std::iter::once(SMALL).chain(real) {
        let weights = MoeWeights {
            gate_up: random.experts(num_experts, 2 * inter, hidden)?,
            gate_up_bias: random.f32s(num_experts * 2 * inter),
            down: random.experts(num_experts, hidden, inter)?,
            down_bias: random.f32s(num_experts * hidden),
            experts_per_token: TOP_K,
            swiglu_limit: 7.0,
        };
        for &n in TOKENS {
            let (x, logits) = (random.tensor(&[n, hidden])?, random.tensor(&[n, num_experts])?);
            // 4.25 bits a weight; so many experts are visited at the most.
            let visited = num_experts.min(TOP_K * n);
            let bytes = visited * 3 * inter * hidden * 17 / 32 + 8 * n * hidden;
            let name = format!("moe {num_experts}x{hidden}x{inter}, {n} tokens");
            checks.push(compare(name, backend, bytes as u64, |backend| {
                let (x, logits) = (x.to_device(backend.device())?, logits.to_device(backend.device())?);
                let moe = backend.moe(weights.clone(), ComputeType::Bf16)?;
                Ok(Box::new(move || moe.forward(&x, &logits)))
            })?);
        }
    }
    Ok(checks)
}
