//! The experts' Metal kernels on the CPU, against the CPU kernels.

use super::super::test_layer::{LIMIT, Layer, NUM_EXPERTS, Projection, TOP_K, check_router, check_sort};
use super::*;
use crate::check::Random;
use crate::gpu::Grid;
use crate::gpu::twin::{Output, Twin, assert_close, input};

fn route(logits: &[f32], num_experts: usize, top_k: usize) -> (Vec<u32>, Vec<f32>) {
    let num_tokens = logits.len() / num_experts;
    let (mut experts, mut shares) = (Output::new(num_tokens * top_k), Output::new(num_tokens * top_k));
    let args =
        RouterArgs { num_tokens: num_tokens as u32, num_experts: num_experts as u32, top_k: top_k as u32 };
    Twin::of("moe/router.metal").launch_metal(
        "router_top_k_f32",
        &[input(logits), experts.address(), shares.address()],
        &args,
        Grid::new([num_tokens.div_ceil(ROUTER_TOKENS), 1, 1], 32 * ROUTER_TOKENS as u32),
    );
    (experts.u32s(), shares.f32s())
}

#[test]
fn the_routers_twin_agrees_with_the_cpus() {
    check_router(route);
}

fn project(kernel: &str, weights: &Projection, x: &[f32], experts: &[u32], args: Mxfp4Args) -> Vec<f32> {
    let width = if kernel == "mxfp4_gate_up_f32" { args.rows / 2 } else { args.rows };
    let mut out = Output::new(experts.len() * width as usize);
    let weights = [input(&weights.blocks), input(&weights.scales), input(&weights.bias)];
    let buffers = [&weights[..], &[input(x), input(experts), out.address()]].concat();
    let grid = Grid::new([(args.rows as usize).div_ceil(GROUP_ROWS), experts.len(), 1], THREADS);
    Twin::of("moe/mxfp4_gemv.metal").launch_metal(kernel, &buffers, &args, grid);
    out.f32s()
}

/// The few-token kernels' outputs of all slots, `[slots, hidden]`.
fn few(layer: &Layer, x: &[f32], experts: &[u32]) -> Vec<f32> {
    let num_slots = experts.len() as u32;
    let (hidden, inter) = (layer.hidden as u32, layer.inter as u32);
    let up = Mxfp4Args { num_slots, slots_per_x: TOP_K as u32, rows: 2 * inter, cols: hidden, limit: LIMIT };
    let activated = project("mxfp4_gate_up_f32", &layer.up, x, experts, up);
    let down = Mxfp4Args { slots_per_x: 1, rows: hidden, cols: inter, ..up };
    project("mxfp4_down_f32", &layer.down, &activated, experts, down)
}

/// The same of the many-token kernels.
fn many(layer: &Layer, x: &[f32], experts: &[u32]) -> Vec<f32> {
    let (starts, sorted) = sort(experts);
    let (hidden, inter) = (layer.hidden as u32, layer.inter as u32);
    let tiles = experts.len() / TILE_SLOTS + NUM_EXPERTS.min(experts.len());
    let project = |kernel: &str, weights: &Projection, x: &[f32], width: u32, args: GroupedArgs| {
        let mut out = Output::new(experts.len() * width as usize);
        let weights = [input(&weights.blocks), input(&weights.scales), input(&weights.bias)];
        let rest = [input(x), input(&starts), input(&sorted), out.address()];
        let grid = Grid::new([(args.rows as usize).div_ceil(TILE_ROWS), tiles, 1], GROUPED_THREADS);
        let twin = Twin::of("moe/mxfp4_grouped.metal");
        twin.launch_metal(kernel, &[&weights[..], &rest].concat(), &args, grid);
        out.f32s()
    };
    let num_experts = NUM_EXPERTS as u32;
    let up =
        GroupedArgs { num_experts, slots_per_x: TOP_K as u32, rows: 2 * inter, cols: hidden, limit: LIMIT };
    let activated = project("mxfp4_gate_up_grouped_f32", &layer.up, x, inter, up);
    let down = GroupedArgs { slots_per_x: 1, rows: hidden, cols: inter, ..up };
    project("mxfp4_down_grouped_f32", &layer.down, &activated, hidden, down)
}

/// Where each expert's slots begin, and all slots by expert, by the kernel's twin.
fn sort(experts: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let (mut starts, mut sorted) = (Output::new(NUM_EXPERTS + 1), Output::new(experts.len()));
    Twin::of("moe/sort_slots.metal").launch_metal(
        "sort_slots_u32",
        &[input(experts), starts.address(), sorted.address()],
        &SortSlotsArgs { num_slots: experts.len() as u32, num_experts: NUM_EXPERTS as u32 },
        Grid::new([1, 1, 1], SORT_THREADS),
    );
    (starts.u32s(), sorted.u32s())
}

fn combine(outputs: &[f32], shares: &[f32], hidden: usize) -> Vec<f32> {
    let num_tokens = shares.len() / TOP_K;
    let mut y = Output::new(num_tokens * hidden);
    Twin::of("moe/combine.metal").launch_metal(
        "moe_combine_f32",
        &[input(outputs), input(shares), y.address()],
        &CombineArgs { top_k: TOP_K as u32, hidden: hidden as u32 },
        Grid::new([hidden.div_ceil(THREADS as usize), num_tokens, 1], THREADS),
    );
    y.f32s()
}

#[test]
fn slots_are_sorted_by_expert_in_their_order() {
    check_sort(sort);
}

#[test]
fn the_experts_twins_agree_with_the_cpu_kernels() {
    let random = &mut Random::fresh();
    // Columns of less than a simdgroup's step, of odd steps, and of several.
    for ([hidden, inter], tokens) in
        [([32, 32], [1, 2, 70]), ([288, 96], [1, 9, 20]), ([1056, 64], [1, 2, 3])]
    {
        let layer = Layer::new(hidden, inter, random);
        // The first expert has nine visitors, more than a threadgroup takes, and seventy, more than a tile has.
        for num_tokens in tokens {
            let (x, logits) = layer.inputs(num_tokens, random);
            let context = format!("{hidden}/{inter}, {num_tokens} tokens");
            let (experts, shares) = route(&logits, NUM_EXPERTS, TOP_K);
            let expected = layer.expected(&x, &logits);
            for outputs in [few(&layer, &x, &experts), many(&layer, &x, &experts)] {
                assert_close(&combine(&outputs, &shares, hidden), &expected, &context);
            }
        }
    }
}

/// Every code under scales from the second on: doubled values and a halved sum must cancel exactly.
#[test]
fn every_code_and_scale_is_decoded_exactly() {
    let (cols, rows) = (32usize, 256usize);
    let blocks: Vec<u8> = (0..rows * cols / 2).map(|at| (at * 37 % 256) as u8).collect();
    let scales: Vec<u8> = (0..rows).map(|row| row.clamp(1, 250) as u8).collect();
    let weights = Projection { blocks, scales, bias: vec![0.0; rows] };
    for col in [0, 1, 17, 31] {
        let mut x = vec![0f32; cols];
        x[col] = 1.0;
        let args =
            Mxfp4Args { num_slots: 1, slots_per_x: 1, rows: rows as u32, cols: cols as u32, limit: 0.0 };
        let found = project("mxfp4_down_f32", &weights, &x, &[0], args);
        for (row, found) in found.iter().enumerate() {
            let code = crate::mxfp4::nibble(&weights.blocks, row * cols + col);
            let expected = crate::mxfp4::decode(code, weights.scales[row]);
            assert!(*found == expected, "row {row} column {col}: {found} {expected}");
        }
    }
}
