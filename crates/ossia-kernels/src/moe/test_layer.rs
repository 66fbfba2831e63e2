//! Random experts for the tests of GPU kernels, what the CPU makes of them, and the checks that all devices' share.

#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};

use super::router::Routes;
use crate::check::Random;
use crate::gpu::twin::assert_close;
use crate::{ComputeType, ExpertWeights, MoeExperts, MoeWeights, WeightBytes};

/// Chosen experts and their weights, `[n * top_k]`, by the CPU's router.
fn expected_routes(logits: &[f32], num_experts: usize, top_k: usize) -> (Vec<u32>, Vec<f32>) {
    let routes = Routes::new(logits, num_experts, top_k);
    let expert_of = |slot: usize| {
        let visit = routes.visits().iter().find(|visit| visit.slots.contains(&slot)).unwrap();
        visit.expert as u32
    };
    routes.choices().iter().map(|&(slot, weight)| (expert_of(slot as usize), weight)).unzip()
}

/// Holds a router `(logits, num_experts, top_k)` to the CPU's: the same experts, in the same order among ties.
pub(super) fn check_router(route: impl Fn(&[f32], usize, usize) -> (Vec<u32>, Vec<f32>)) {
    let random = &mut Random::fresh();
    for (num_experts, top_k) in [(1, 1), (8, 4), (32, 4), (33, 5), (128, 4)] {
        let mut logits = random.f32s(9 * num_experts);
        for logit in &mut logits {
            // Ties, and both zeros.
            match random.below(8) {
                0 => *logit = 0.5,
                1 => *logit = -0.0,
                2 => *logit = 0.0,
                _ => {}
            }
        }
        let (experts, weights) = route(&logits, num_experts, top_k);
        let (expected_experts, expected_weights) = expected_routes(&logits, num_experts, top_k);
        assert_eq!(experts, expected_experts, "{num_experts} experts");
        assert_close(&weights, &expected_weights, &format!("{num_experts} experts"));
    }
    // NaN comes first, as on the CPU.
    assert_eq!(route(&[0.0, 3.0, f32::NAN, -1.0], 4, 2).0, [2, 1]);
}

/// Holds a sort of slots by expert to its definition: where each expert's begin, and each expert's in their order.
pub(super) fn check_sort(sort: impl Fn(&[u32]) -> (Vec<u32>, Vec<u32>)) {
    let random = &mut Random::fresh();
    for count in [1, 31, 33, 500] {
        let experts: Vec<u32> = (0..count).map(|_| random.below(NUM_EXPERTS) as u32).collect();
        let (starts, sorted) = sort(&experts);
        let mut expected: Vec<u32> = (0..count as u32).collect();
        expected.sort_by_key(|&slot| experts[slot as usize]);
        assert_eq!(sorted, expected);
        for (expert, start) in starts.iter().enumerate() {
            assert_eq!(*start as usize, experts.iter().filter(|&&e| (e as usize) < expert).count());
        }
    }
}

/// An MXFP4 matrix and bias per expert.
pub(super) struct Projection {
    pub(super) blocks: Vec<u8>,
    pub(super) scales: Vec<u8>,
    pub(super) bias: Vec<f32>,
}

impl Projection {
    fn new(num_experts: usize, rows: usize, cols: usize, random: &mut Random) -> Self {
        let count = num_experts * rows * cols;
        Self {
            blocks: random.bytes(count / 2, 0..=255),
            scales: random.bytes(count / 32, 119..=123),
            bias: random.f32s(num_experts * rows),
        }
    }

    fn weights(&self, num_experts: usize, rows: usize, cols: usize) -> ExpertWeights {
        let (blocks, scales) = (self.blocks.clone(), self.scales.clone());
        let (blocks, scales) = (WeightBytes::owned(blocks), WeightBytes::owned(scales));
        ExpertWeights::mxfp4(blocks, scales, num_experts, rows, cols).unwrap()
    }
}

pub(super) const NUM_EXPERTS: usize = 5;
pub(super) const TOP_K: usize = 3;
pub(super) const LIMIT: f32 = 1.5;

/// A layer's weights, and its op on the CPU.
pub(super) struct Layer {
    pub(super) up: Projection,
    pub(super) down: Projection,
    pub(super) hidden: usize,
    pub(super) inter: usize,
}

impl Layer {
    pub(super) fn new(hidden: usize, inter: usize, random: &mut Random) -> Self {
        let up = Projection::new(NUM_EXPERTS, 2 * inter, hidden, random);
        let down = Projection::new(NUM_EXPERTS, hidden, inter, random);
        Self { up, down, hidden, inter }
    }

    /// Activations `[n, hidden]` and logits `[n, NUM_EXPERTS]` of tokens that all visit the first expert, so that it has
    /// as many visitors as there are tokens.
    pub(super) fn inputs(&self, num_tokens: usize, random: &mut Random) -> (Vec<f32>, Vec<f32>) {
        let mut logits = random.f32s(num_tokens * NUM_EXPERTS);
        logits.iter_mut().step_by(NUM_EXPERTS).for_each(|logit| *logit += 10.0);
        (random.f32s(num_tokens * self.hidden), logits)
    }

    /// What the CPU's exact path makes of `x` `[n, hidden]` and `logits` `[n, NUM_EXPERTS]`.
    pub(super) fn expected(&self, x: &[f32], logits: &[f32]) -> Vec<f32> {
        let weights = MoeWeights {
            gate_up: self.up.weights(NUM_EXPERTS, 2 * self.inter, self.hidden),
            gate_up_bias: self.up.bias.clone(),
            down: self.down.weights(NUM_EXPERTS, self.hidden, self.inter),
            down_bias: self.down.bias.clone(),
            experts_per_token: TOP_K,
            swiglu_limit: LIMIT,
        };
        let op = MoeExperts::new(weights, ComputeType::F32).unwrap();
        let tensor =
            |v: &[f32], width| Tensor::from_slice(v, (v.len() / width, width), &Device::Cpu).unwrap();
        let y = op.forward(&tensor(x, self.hidden), &tensor(logits, NUM_EXPERTS)).unwrap();
        y.flatten_all().unwrap().to_vec1().unwrap()
    }
}
