//! The experts' kernels on the CPU, against the CPU kernels.

#![allow(clippy::unwrap_used)]

use half::bf16;

use super::super::test_layer::{LIMIT, Layer, NUM_EXPERTS, TOP_K, check_router, check_sort};
use super::*;
use crate::check::Random;
use crate::gpu::Grid;
use crate::gpu::twin::{Output, Twin, input};

/// Chosen experts and their weights, `[n * top_k]`, by the kernel's twin.
fn route(logits: &[f32], num_experts: usize, top_k: usize) -> (Vec<u32>, Vec<f32>) {
    let num_tokens = logits.len() / num_experts;
    let (mut experts, mut weights) = (Output::new(num_tokens * top_k), Output::new(num_tokens * top_k));
    let args = RouterArgs {
        logits: input(logits),
        experts: experts.address(),
        weights: weights.address(),
        num_tokens: num_tokens as u32,
        num_experts: num_experts as u32,
        top_k: top_k as u32,
    };
    let grid = Grid::new([num_tokens.div_ceil(ROUTER_TOKENS), 1, 1], 32 * ROUTER_TOKENS as u32);
    Twin::of("moe/router.cu").launch("router_top_k_f32", &args, grid);
    (experts.u32s(), weights.f32s())
}

#[test]
fn the_routers_twin_agrees_with_the_cpus() {
    check_router(route);
}

impl Layer {
    /// The few-token kernels' outputs of all slots, `[slots, hidden]`.
    fn few(&self, x: &[f32], experts: &[u32]) -> Vec<f32> {
        let slots = experts.len();
        let mut activated = Output::new(slots * self.inter);
        let grid = |rows: usize| Grid::new([rows.div_ceil(BLOCK_ROWS), slots, 1], THREADS);
        let args = GateUpArgs {
            blocks: input(&self.up.blocks),
            scales: input(&self.up.scales),
            bias: input(&self.up.bias),
            x: input(x),
            experts: input(experts),
            activated: activated.address(),
            num_slots: slots as u32,
            top_k: TOP_K as u32,
            hidden: self.hidden as u32,
            inter: self.inter as u32,
            limit: LIMIT,
        };
        Twin::of("moe/mxfp4_gate_up.cu").launch("mxfp4_gate_up_f32", &args, grid(2 * self.inter));
        let activated = activated.f32s();
        let mut outputs = Output::new(slots * self.hidden);
        let args = DownArgs {
            blocks: input(&self.down.blocks),
            scales: input(&self.down.scales),
            bias: input(&self.down.bias),
            activated: input(&activated),
            experts: input(experts),
            outputs: outputs.address(),
            num_slots: slots as u32,
            hidden: self.hidden as u32,
            inter: self.inter as u32,
        };
        Twin::of("moe/mxfp4_down.cu").launch("mxfp4_down_f32", &args, grid(self.hidden));
        outputs.f32s()
    }

    /// The same of the many-token kernels.
    fn many(&self, x: &[f32], experts: &[u32]) -> Vec<f32> {
        let slots = experts.len();
        let (starts, sorted) = sort(experts);
        let mut activated = Output::new(slots * self.inter);
        let tiles = slots / TILE_SLOTS + NUM_EXPERTS;
        let grid = |rows: usize| Grid::new([rows.div_ceil(TILE_ROWS), tiles, 1], THREADS);
        let twin = Twin::of("moe/mxfp4_grouped.cu");
        let args = GroupedArgs {
            blocks: input(&self.up.blocks),
            scales: input(&self.up.scales),
            bias: input(&self.up.bias),
            x: input(x),
            starts: input(&starts),
            sorted: input(&sorted),
            out: activated.address(),
            num_experts: NUM_EXPERTS as u32,
            slots_per_x: TOP_K as u32,
            rows: 2 * self.inter as u32,
            cols: self.hidden as u32,
            limit: LIMIT,
        };
        twin.launch("mxfp4_gate_up_grouped_f32", &args, grid(2 * self.inter));
        let activated = activated.f32s();
        let mut outputs = Output::new(slots * self.hidden);
        let args = GroupedArgs {
            blocks: input(&self.down.blocks),
            scales: input(&self.down.scales),
            bias: input(&self.down.bias),
            x: input(&activated),
            out: outputs.address(),
            slots_per_x: 1,
            rows: self.hidden as u32,
            cols: self.inter as u32,
            ..args
        };
        twin.launch("mxfp4_down_grouped_f32", &args, grid(self.hidden));
        outputs.f32s()
    }
}

/// Where each expert's slots begin, and all slots by expert, by the kernel's twin.
fn sort(experts: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let (mut starts, mut sorted) = (Output::new(NUM_EXPERTS + 1), Output::new(experts.len()));
    let args = SortSlotsArgs {
        experts: input(experts),
        starts: starts.address(),
        sorted: sorted.address(),
        num_slots: experts.len() as u32,
        num_experts: NUM_EXPERTS as u32,
    };
    Twin::of("moe/sort_slots.cu").launch("sort_slots_u32", &args, Grid::new([1, 1, 1], SORT_THREADS));
    (starts.u32s(), sorted.u32s())
}

fn combine(outputs: &[f32], shares: &[f32], hidden: usize) -> Vec<f32> {
    let num_tokens = shares.len() / TOP_K;
    let mut y = Output::new(num_tokens * hidden);
    let args = CombineArgs {
        outputs: input(outputs),
        shares: input(shares),
        y: y.address(),
        top_k: TOP_K as u32,
        hidden: hidden as u32,
    };
    let grid = Grid::new([hidden.div_ceil(THREADS as usize), num_tokens, 1], THREADS);
    Twin::of("moe/combine.cu").launch("moe_combine_f32", &args, grid);
    y.f32s()
}

#[test]
fn slots_are_sorted_by_expert_in_their_order() {
    check_sort(sort);
}

#[test]
fn the_experts_twins_agree_with_the_cpu_kernels() {
    let random = &mut Random::fresh();
    // Columns of less than a warp's step, of odd steps, and of more than is staged at once.
    for ([hidden, inter], tokens) in
        [([32, 32], [1, 2, 70]), ([288, 96], [1, 9, 20]), ([2080, 64], [1, 2, 3])]
    {
        let layer = Layer::new(hidden, inter, random);
        // The first expert has nine visitors, more than a launch takes at a time, and seventy, more than a tile's.
        for num_tokens in tokens {
            let (x, logits) = layer.inputs(num_tokens, random);
            let (experts, shares) = route(&logits, NUM_EXPERTS, TOP_K);
            // The kernels round activations to bf16.
            let rounded: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            let expected = layer.expected(&rounded, &logits);
            let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
            for outputs in [layer.few(&x, &experts), layer.many(&x, &experts)] {
                for (found, expected) in combine(&outputs, &shares, hidden).iter().zip(&expected) {
                    // An activation next to a rounding boundary of bf16 may fall to either side.
                    let close = (found - expected).abs() < 3e-3 * scale;
                    assert!(close, "{hidden}/{inter}, {num_tokens} tokens: {found} {expected}");
                }
            }
        }
    }
}

/// The activation's clamps and every code and scale, without rounding in the way: one column block, exact inputs.
#[test]
fn every_code_and_scale_is_decoded_exactly() {
    let (hidden, rows) = (32usize, 2 * 256usize);
    // Row r has scale r / 2 and x picks one column; its value is the whole sum of the gate's or the up's row.
    let blocks: Vec<u8> = (0..rows * hidden / 2).map(|at| (at * 37 % 256) as u8).collect();
    let scales: Vec<u8> = (0..rows).map(|row| (row / 2).min(250) as u8).collect();
    let bias = vec![0f32; rows];
    let mut x = vec![0f32; hidden];
    for col in [0, 1, 17, 31] {
        x.fill(0.0);
        x[col] = 1.0;
        let experts = [0u32];
        let mut activated = Output::new(rows / 2);
        let args = GateUpArgs {
            blocks: input(&blocks),
            scales: input(&scales),
            bias: input(&bias),
            x: input(&x),
            experts: input(&experts),
            activated: activated.address(),
            num_slots: 1,
            top_k: 1,
            hidden: hidden as u32,
            inter: (rows / 2) as u32,
            limit: f32::INFINITY,
        };
        let grid = Grid::new([rows.div_ceil(BLOCK_ROWS), 1, 1], THREADS);
        Twin::of("moe/mxfp4_gate_up.cu").launch("mxfp4_gate_up_f32", &args, grid);
        for (pair, found) in activated.f32s().iter().enumerate() {
            let value = |row: usize| {
                crate::mxfp4::decode(crate::mxfp4::nibble(&blocks, row * hidden + col), scales[row])
            };
            let (gate, up) = (value(2 * pair), value(2 * pair + 1));
            let expected = (up + 1.0) * (gate / (1.0 + (-1.702 * gate).exp()));
            let close = (found - expected).abs() <= 1e-5 * expected.abs();
            assert!(close || found == &expected, "row {pair} column {col}: {found} {expected}");
        }
    }
}
