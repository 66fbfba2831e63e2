//! Random experts for the tests of GPU kernels, and what the CPU makes of them.

#![allow(clippy::unwrap_used)]

use candle_core::{Device, Tensor};

use super::router::Routes;
use crate::check::Random;
use crate::{ComputeType, ExpertWeights, MoeExperts, MoeWeights, WeightBytes};

/// Chosen experts and their weights, `[n * top_k]`, by the CPU's router.
pub(super) fn expected_routes(logits: &[f32], num_experts: usize, top_k: usize) -> (Vec<u32>, Vec<f32>) {
    let routes = Routes::new(logits, num_experts, top_k);
    let expert_of = |slot: usize| {
        let visit = routes.visits().iter().find(|visit| visit.slots.contains(&slot)).unwrap();
        visit.expert as u32
    };
    routes.choices().iter().map(|&(slot, weight)| (expert_of(slot as usize), weight)).unzip()
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
