//! The experts' kernels on the CPU, against the CPU kernels.

#![allow(clippy::unwrap_used)]

use half::bf16;

use super::super::test_layer::{LIMIT, Layer, NUM_EXPERTS, TOP_K, check_router, check_sort};
use super::*;
use crate::check::Random;
use crate::gpu::Grid;
use crate::gpu::twin::{Output, Twin, input};

/// Few, so that blocks take several tiles in turns.
const MULTIPROCESSORS: usize = 2;

/// What the router's kernels make of a batch.
struct Routed {
    experts: Vec<u32>,
    shares: Vec<f32>,
    sorted: Vec<u32>,
    tiles: Vec<[u32; TILE_WORDS]>,
    x: Vec<u32>,
}

/// Routes by the kernels' twins: in one launch, or in the two of large batches.
fn route(
    x: &[f32],
    logits: &[f32],
    [num_experts, top_k]: [usize; 2],
    projections: Projections,
    at_once: bool,
) -> Routed {
    let num_tokens = logits.len() / num_experts;
    let (num_slots, cols) = (num_tokens * top_k, x.len() / num_tokens);
    let num_tiles = projections.num_tiles(num_slots, num_experts);
    let [mut experts, mut shares, mut sorted] = [(); 3].map(|()| Output::new(num_slots));
    let (mut tiles, mut packed) = (Output::new(num_tiles * TILE_WORDS), Output::new(num_tokens * cols / 2));
    let args = RouteArgs {
        logits: input(logits),
        x: input(x),
        experts: experts.address(),
        shares: shares.address(),
        sorted: sorted.address(),
        tiles: tiles.address(),
        packed_x: packed.address(),
        num_tokens: num_tokens as u32,
        num_experts: num_experts as u32,
        top_k: top_k as u32,
        cols: cols as u32,
        tile_slots: projections.tile_slots as u32,
        num_tiles: num_tiles as u32,
    };
    let twin = Twin::of("moe/route.cu");
    if at_once {
        twin.launch("route_f32", &args, Grid::new([1 + num_tokens, 1, 1], ROUTE_THREADS));
    } else {
        twin.launch("choose_and_pack_f32", &args, Grid::new([num_tokens, 1, 1], CHOOSE_THREADS));
        twin.launch("sort_slots_u32", &args, Grid::new([1, 1, 1], ROUTE_THREADS));
    }
    Routed {
        experts: experts.u32s(),
        shares: shares.f32s(),
        sorted: sorted.u32s(),
        tiles: tiles.u32s().chunks(TILE_WORDS).map(|tile| tile.try_into().unwrap()).collect(),
        x: packed.u32s(),
    }
}

#[test]
fn the_routers_twin_agrees_with_the_cpus() {
    for at_once in [true, false] {
        check_router(|logits, num_experts, top_k| {
            let x = vec![0.0; logits.len() / num_experts * 8];
            let routed = route(&x, logits, [num_experts, top_k], PROJECTIONS[0], at_once);
            (routed.experts, routed.shares)
        });
    }
}

#[test]
fn slots_are_sorted_by_expert_in_their_order_and_cut_into_tiles() {
    for projections in PROJECTIONS {
        check_sort(|experts| {
            // Logits that choose them, one a token.
            let mut logits = vec![0.0; experts.len() * NUM_EXPERTS];
            for (logits, &expert) in logits.chunks_mut(NUM_EXPERTS).zip(experts) {
                logits[expert as usize] = 1.0;
            }
            let x = vec![0.0; experts.len() * 8];
            let routed = route(&x, &logits, [NUM_EXPERTS, 1], projections, true);
            let mut counts = [0; NUM_EXPERTS];
            let (mut next, mut done) = (0, false);
            for [expert, first, num_slots, _] in routed.tiles {
                done |= num_slots == 0;
                assert!(num_slots as usize <= projections.tile_slots);
                assert!(if done { num_slots == 0 } else { first == next });
                next += num_slots;
                counts[expert as usize] += num_slots;
            }
            let mut starts = vec![0];
            for count in counts {
                starts.push(starts[starts.len() - 1] + count);
            }
            (starts, routed.sorted)
        });
    }
}

/// Column `i` of each eight of packed activations, by the kernel's order.
const PACKED_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

#[test]
fn activations_are_packed_as_codes_come_out_of_a_word() {
    let x = Random::fresh().f32s(3 * 40);
    let routed = route(&x, &[1.0, 2.0, 0.5], [1, 1], PROJECTIONS[0], true);
    let expected: Vec<u32> = x
        .chunks(8)
        .flat_map(|x| PACKED_ORDER.map(|col| u32::from(bf16::from_f32(x[col]).to_bits())))
        .collect();
    let expected: Vec<u32> = expected.chunks(2).map(|pair| pair[0] | pair[1] << 16).collect();
    assert_eq!(routed.x, expected);
}

impl Layer {
    /// The outputs of all slots, `[slots, hidden]`.
    fn project(&self, routed: &Routed, projections: Projections) -> Vec<f32> {
        let slots = routed.experts.len();
        let twin = Twin::of(match projections.tile_slots {
            128 => "moe/mxfp4_grouped.cu",
            _ => "moe/mxfp4_mma.cu",
        });
        let mut activated = Output::new(slots * self.inter / 2);
        let args = Mxfp4Args {
            blocks: input(&self.up.blocks),
            scales: input(&self.up.scales),
            bias: input(&self.up.bias),
            x: input(&routed.x),
            tiles: input(&routed.tiles),
            sorted: input(&routed.sorted),
            out: activated.address(),
            slots_per_x: TOP_K as u32,
            rows: 2 * self.inter as u32,
            cols: self.hidden as u32,
            limit: LIMIT,
            num_tiles: routed.tiles.len() as u32,
        };
        twin.launch(
            projections.gate_up,
            &args,
            projections.grid(2 * self.inter, routed.tiles.len(), MULTIPROCESSORS),
        );
        let activated = activated.u32s();
        let mut outputs = Output::new(slots * self.hidden);
        let args = Mxfp4Args {
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
        twin.launch(
            projections.down,
            &args,
            projections.grid(self.hidden, routed.tiles.len(), MULTIPROCESSORS),
        );
        outputs.f32s()
    }
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
    let grid = Grid::new([hidden.div_ceil(COMBINE_THREADS as usize), num_tokens, 1], COMBINE_THREADS);
    Twin::of("moe/combine.cu").launch("moe_combine_f32", &args, grid);
    y.f32s()
}

#[test]
fn the_experts_twins_agree_with_the_cpu_kernels() {
    let random = &mut Random::fresh();
    // Columns of less than the warps' steps, of odd steps, and of more than are under way at once.
    for ([hidden, inter], tokens) in
        [([32, 32], [1, 2, 140]), ([288, 96], [1, 9, 40]), ([2080, 64], [1, 2, 3])]
    {
        let layer = Layer::new(hidden, inter, random);
        // All tokens visit the first expert: more than a tile's.
        for num_tokens in tokens {
            let (x, logits) = layer.inputs(num_tokens, random);
            // The kernels round activations to bf16.
            let rounded: Vec<f32> = x.iter().map(|x| bf16::from_f32(*x).to_f32()).collect();
            let expected = layer.expected(&rounded, &logits);
            let scale = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
            for projections in PROJECTIONS {
                let routed = route(&x, &logits, [NUM_EXPERTS, TOP_K], projections, num_tokens % 2 == 1);
                let outputs = layer.project(&routed, projections);
                for (found, expected) in combine(&outputs, &routed.shares, hidden).iter().zip(&expected) {
                    // An activation next to a rounding boundary of bf16 may fall to either side, and all of the
                    // intermediate ones are rounded.
                    let close = (found - expected).abs() < 1e-2 * scale;
                    let kernel = projections.gate_up;
                    assert!(close, "{kernel} {hidden}/{inter}, {num_tokens} tokens: {found} {expected}");
                }
            }
        }
    }
}

#[test]
fn the_kernels_for_few_slots_give_a_slot_the_same_bits() {
    let random = &mut Random::fresh();
    let layer = Layer::new(288, 96, random);
    let (x, logits) = layer.inputs(20, random);
    let outputs = [0, 1, 2].map(|i| {
        let routed = route(&x, &logits, [NUM_EXPERTS, TOP_K], PROJECTIONS[i], true);
        layer.project(&routed, PROJECTIONS[i])
    });
    assert!(outputs[0] == outputs[1] && outputs[1] == outputs[2]);
}

/// Every code with every scale that the kernels take, without rounding in the way: one column block, exact inputs.
#[test]
fn every_code_and_scale_is_decoded_exactly() {
    let (rows, hidden) = (130usize, 32usize);
    // Row r has scale r and x picks one column; its value is the row's whole sum.
    let blocks: Vec<u8> = (0..rows * hidden / 2).map(|at| (at * 37 % 256) as u8).collect();
    let scales: Vec<u8> = (0..rows).map(|row| (row as u8).min(MAX_SCALE)).collect();
    let bias = vec![0f32; rows];
    for projections in PROJECTIONS {
        let twin =
            Twin::of(if projections.tile_slots == 128 { "moe/mxfp4_grouped.cu" } else { "moe/mxfp4_mma.cu" });
        for col in 0..hidden {
            let mut x = vec![0f32; hidden];
            x[col] = 1.0;
            let routed = route(&x, &[1.0], [1, 1], projections, true);
            let mut outputs = Output::new(rows);
            let args = Mxfp4Args {
                blocks: input(&blocks),
                scales: input(&scales),
                bias: input(&bias),
                x: input(&routed.x),
                tiles: input(&routed.tiles),
                sorted: input(&routed.sorted),
                out: outputs.address(),
                slots_per_x: 1,
                rows: rows as u32,
                cols: hidden as u32,
                limit: 0.0,
                num_tiles: 1,
            };
            twin.launch(projections.down, &args, projections.grid(rows, 1, MULTIPROCESSORS));
            let expected: Vec<f32> = (0..rows)
                .map(|row| {
                    crate::mxfp4::decode(crate::mxfp4::nibble(&blocks, row * hidden + col), scales[row])
                })
                .collect();
            assert_eq!(outputs.f32s(), expected, "{}, column {col}", projections.down);
        }
    }
}
