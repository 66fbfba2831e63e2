//! Drawing's kernels on the CPU, against the definition.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::check::Random;
use crate::gpu::Grid;
use crate::gpu::twin::{Output, Twin, input};

/// Tokens of rows of `logits` `[.., vocab]` by the kernels' twins.
fn draw_twin(logits: &[f32], vocab: usize, draws: &[(u32, &Draw)]) -> Vec<Drawn> {
    let mut logits = logits.to_vec();
    let (count, num_parts, words) = (draws.len(), vocab.div_ceil(PART_LEN), Words::new(draws));
    // Eight-byte numbers must lie as on a device.
    let mut aligned = vec![0u64; words.words.len().div_ceil(2)];
    for (at, &word) in words.words.iter().enumerate() {
        aligned[at / 2] |= u64::from(word) << (32 * (at % 2));
    }
    let base = input(&aligned);
    let (mut maxima, mut places) = (Output::new(count * num_parts), Output::new(count * num_parts));
    let (mut sums, mut tokens) = (Output::new(2 * count * num_parts), Output::new(count));
    let args = DrawArgs {
        logits: logits.as_mut_ptr() as u64,
        uniforms: base,
        rows: base + 4 * words.rows as u64,
        scales: base + 4 * words.scales as u64,
        starts: base + 4 * words.starts as u64,
        forbidden: base + 4 * words.forbidden as u64,
        part_max: maxima.address(),
        part_argmax: places.address(),
        part_sum: sums.address(),
        tokens: tokens.address(),
        vocab: vocab as u32,
        num_parts: num_parts as u32,
    };
    let twin = Twin::of("draw/draw.cu");
    if words.has_forbidden() {
        twin.launch("draw_forbid_f32", &args, Grid::new([count, 1, 1], THREADS));
    }
    twin.launch("draw_parts_f32", &args, Grid::new([num_parts, count, 1], THREADS));
    twin.launch("draw_token_f32", &args, Grid::new([count, 1, 1], THREADS));
    tokens.u32s().into_iter().map(drawn).collect()
}

fn plain(temperature: f32, uniform: f64) -> Draw {
    Draw { temperature, uniform, forbidden: vec![] }
}

/// By the definition, in f64; `None` if the uniform number falls within rounding of a boundary.
fn expected(logits: &[f32], draw: &Draw) -> Option<u32> {
    let allowed = |id: usize| !draw.forbidden.contains(&(id as u32));
    let max = (0..logits.len()).filter(|&id| allowed(id)).map(|id| logits[id]).fold(f32::MIN, f32::max);
    let mass = |id: usize| match allowed(id) {
        true => (f64::from(logits[id] - max) / f64::from(draw.temperature)).exp(),
        false => 0.0,
    };
    let total: f64 = (0..logits.len()).map(mass).sum();
    let mut before = 0.0;
    for id in 0..logits.len() {
        let after = before + mass(id) / total;
        if (after - draw.uniform).abs() < 1e-5 {
            return None;
        }
        if after > draw.uniform {
            return Some(id as u32);
        }
        before = after;
    }
    None
}

#[test]
fn tokens_are_those_that_the_uniform_number_falls_into() {
    let random = &mut Random::fresh();
    let mut compared = 0;
    for vocab in [1, 300, 2048, 5000] {
        let logits: Vec<f32> = random.f32s(3 * vocab).iter().map(|x| 6.0 * x).collect();
        for temperature in [1.0, 0.3, 4.0] {
            let numbers = random.f32s(6);
            let draws: Vec<(u32, Draw)> = numbers
                .iter()
                .enumerate()
                .map(|(i, u)| {
                    let forbidden = (i % 3 == 2 && vocab > 1).then(|| vec![vocab as u32 - 1, 9_999_999]);
                    let uniform = f64::from(u.abs());
                    let forbidden = forbidden.unwrap_or_default();
                    ((i % 3) as u32, Draw { temperature, uniform, forbidden })
                })
                .collect();
            let draws: Vec<(u32, &Draw)> = draws.iter().map(|(row, draw)| (*row, draw)).collect();
            let found = draw_twin(&logits, vocab, &draws);
            for ((row, draw), found) in draws.iter().zip(found) {
                if let Some(token) = expected(&logits[*row as usize * vocab..][..vocab], draw) {
                    assert_eq!(found, Drawn::Token(token), "vocabulary {vocab}, {draw:?}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn without_temperature_it_is_the_first_of_the_most_probable() {
    let vocab = 4500;
    let mut logits = vec![-1.0; vocab];
    for id in [4100, 2500, 2047] {
        logits[id] = 3.0;
    }
    assert_eq!(draw_twin(&logits, vocab, &[(0, &plain(0.0, 0.7))]), [Drawn::Token(2047)]);
    let draw = Draw { forbidden: vec![2047, 2500], ..plain(0.0, 0.0) };
    assert_eq!(draw_twin(&logits, vocab, &[(0, &draw)]), [Drawn::Token(4100)]);
}

#[test]
fn the_ends_of_the_range_are_tokens_and_what_is_impossible_is_not() {
    let vocab = 4200;
    let mut logits = vec![f32::NEG_INFINITY; vocab];
    for id in [3, 2100, 4199] {
        logits[id] = 0.0;
    }
    for (uniform, token) in [(0.0, 3), (0.34, 2100), (0.999_999_999, 4199)] {
        assert_eq!(draw_twin(&logits, vocab, &[(0, &plain(1.0, uniform))]), [Drawn::Token(token)]);
    }
    let draw = Draw { forbidden: vec![3, 2100, 4199], ..plain(1.0, 0.5) };
    assert_eq!(draw_twin(&logits, vocab, &[(0, &draw)]), [Drawn::NothingAllowed]);
    for bad in [f32::NAN, f32::INFINITY] {
        logits[4000] = bad;
        for temperature in [0.0, 1.0] {
            assert_eq!(draw_twin(&logits, vocab, &[(0, &plain(temperature, 0.5))]), [Drawn::NotFinite]);
        }
    }
}
