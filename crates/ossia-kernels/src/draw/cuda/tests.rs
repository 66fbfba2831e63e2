//! Drawing's kernels on the CPU, against the definition.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::Uniforms;
use crate::check::Random;
use crate::gpu::twin::{Output, Twin, input};

/// Tokens of rows of `logits` `[.., vocab]` by the kernels' twins.
fn draw_twin(logits: &[f32], vocab: usize, draws: &[(u32, &Draw)]) -> Vec<Drawn> {
    let mut logits = logits.to_vec();
    let (count, num_parts, words) = (draws.len(), vocab.div_ceil(PART_LEN), Words::new(draws, vocab));
    // Eight-byte numbers must lie as on a device.
    let mut aligned = vec![0u64; words.words.len().div_ceil(2)];
    for (at, &word) in words.words.iter().enumerate() {
        aligned[at / 2] |= u64::from(word) << (32 * (at % 2));
    }
    let base = input(&aligned);
    let (mut maxima, mut places) = (Output::new(count * num_parts), Output::new(count * num_parts));
    let (mut sums, mut tokens) = (Output::new(2 * count * num_parts), Output::new(count));
    let on_device = OnDevice {
        logits: logits.as_mut_ptr() as u64,
        part_max: maxima.address(),
        part_argmax: places.address(),
        part_sum: sums.address(),
        tokens: tokens.address(),
        vocab,
    };
    let args = words.args(base, &on_device);
    for (kernel, grid) in launches(draws, vocab) {
        let source = if kernel == "draw_filtered_f32" { "draw/draw_filtered.cu" } else { "draw/draw.cu" };
        Twin::of(source).launch(kernel, &args, grid);
    }
    tokens.u32s().into_iter().map(drawn).collect()
}

/// By the definition, in f64; `None` if the uniform number falls within rounding of a boundary.
fn expected(logits: &[f32], draw: &Draw) -> Option<u32> {
    let allowed = |id: usize| draw.allows(id as u32);
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
                    ((i % 3) as u32, Draw { forbidden, ..Draw::plain(temperature, uniform) })
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
    assert_eq!(draw_twin(&logits, vocab, &[(0, &Draw::plain(0.0, 0.7))]), [Drawn::Token(2047)]);
    let draw = Draw { forbidden: vec![2047, 2500], ..Draw::plain(0.0, 0.0) };
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
        assert_eq!(draw_twin(&logits, vocab, &[(0, &Draw::plain(1.0, uniform))]), [Drawn::Token(token)]);
    }
    let draw = Draw { forbidden: vec![3, 2100, 4199], ..Draw::plain(1.0, 0.5) };
    assert_eq!(draw_twin(&logits, vocab, &[(0, &draw)]), [Drawn::NothingAllowed]);
    for bad in [f32::NAN, f32::INFINITY] {
        logits[4000] = bad;
        for temperature in [0.0, 1.0] {
            assert_eq!(draw_twin(&logits, vocab, &[(0, &Draw::plain(temperature, 0.5))]), [Drawn::NotFinite]);
        }
    }
}

fn filtered(temperature: f32, top_k: u32, top_p: f32, min_p: f32, redraws: Uniforms) -> Draw {
    let mut redraws = redraws;
    let uniform = redraws.next_uniform();
    let filters = Some(Filters { top_k, top_p, min_p, redraws });
    Draw { filters, ..Draw::plain(temperature, uniform) }
}

/// By the definition, with sorting, in f64; `None` if a number falls within rounding of a boundary.
fn expected_filtered(logits: &[f32], draw: &Draw) -> Option<u32> {
    let Filters { top_k, top_p, min_p, mut redraws } = draw.filters.clone().unwrap();
    let mut ranked: Vec<u32> = (0..logits.len() as u32).filter(|&id| draw.allows(id)).collect();
    let logit = |id: u32| logits[id as usize];
    ranked.sort_by(|a, b| logit(*b).total_cmp(&logit(*a)).then(a.cmp(b)));
    let max = logit(ranked[0]);
    if min_p > 0.0 {
        let least = (max + draw.temperature * min_p.ln()).min(max);
        ranked.retain(|id| logit(*id) >= least);
    }
    if top_k > 0 {
        ranked.truncate(top_k as usize);
    }
    let mass = |id: u32| (f64::from(logit(id) - max) / f64::from(draw.temperature)).exp();
    let total = |ids: &[u32]| ids.iter().map(|id| mass(*id)).sum::<f64>();
    let nucleus = f64::from(top_p) * total(&ranked);
    let mut uniform = draw.uniform;
    loop {
        let (all, mut before, mut token) = (total(&ranked), 0.0, None);
        let mut by_id = ranked.clone();
        by_id.sort_unstable();
        for id in by_id {
            let after = before + mass(id) / all;
            if (after - uniform).abs() < 1e-5 && ranked.len() > 1 {
                return None;
            }
            if after > uniform {
                token = Some(id);
                break;
            }
            before = after;
        }
        let rank = ranked.iter().position(|id| Some(*id) == token)?;
        let ranked_before = total(&ranked[..rank]);
        if (ranked_before / nucleus - 1.0).abs() < 1e-5 {
            return None;
        }
        if top_p >= 1.0 || ranked_before < nucleus {
            return token;
        }
        ranked.truncate(rank + 1);
        uniform = redraws.next_uniform();
    }
}

#[test]
fn filters_leave_what_they_say() {
    let random = &mut Random::fresh();
    let mut compared = 0;
    for (vocab, rows) in [(1, 1), (300, 3), (5000, 2), (70_000, 1)] {
        let mut logits: Vec<f32> = random.f32s(rows * vocab).iter().map(|x| 8.0 * x).collect();
        // Steps, so that many are equal, in one row.
        logits[..vocab].iter_mut().for_each(|x| *x = (*x * 2.0).round() / 2.0);
        let filters = [
            (0, 0.9, 0.0),
            (0, 0.2, 0.0),
            (0, 1e-6, 0.0),
            (1, 1.0, 0.0),
            (7, 1.0, 0.0),
            (290, 1.0, 0.0),
            (1000, 0.5, 0.0),
            (40, 0.7, 0.05),
            (0, 1.0, 0.1),
            (0, 1.0, 1.0),
        ];
        let numbers = random.f32s(filters.len());
        let mut draws: Vec<(u32, Draw)> = Vec::new();
        for (i, ((top_k, top_p, min_p), x)) in filters.into_iter().zip(numbers).enumerate() {
            let temperature = [1.0, 0.4, 2.0][i % 3];
            let redraws = Uniforms::new(x.to_bits().into(), 0);
            let mut draw = filtered(temperature, top_k, top_p, min_p, redraws);
            if i % 4 == 1 && vocab > 100 {
                draw.forbidden = vec![3, 77, 9_999_999];
            }
            draws.push(((i % rows) as u32, draw));
        }
        // One that has none, beside them.
        draws.push((0, Draw::plain(1.0, 0.3)));
        for (row, draw) in &draws {
            // Alone, since what one forbids is struck out of the row for all.
            let row_logits = &logits[*row as usize * vocab..][..vocab];
            let found = draw_twin(row_logits, vocab, &[(0, draw)]);
            let expected = match draw.filters {
                Some(_) => expected_filtered(row_logits, draw),
                None => expected(row_logits, draw),
            };
            if let Some(token) = expected {
                assert_eq!(found, [Drawn::Token(token)], "vocabulary {vocab}, {draw:?}");
                compared += 1;
            }
        }
        let together: Vec<(u32, &Draw)> = draws
            .iter()
            .filter(|(_, draw)| draw.forbidden.is_empty())
            .map(|(row, draw)| (*row, draw))
            .collect();
        let alone = together.iter().flat_map(|(row, draw)| {
            draw_twin(&logits[*row as usize * vocab..][..vocab], vocab, &[(0, *draw)])
        });
        assert_eq!(draw_twin(&logits, vocab, &together), alone.collect::<Vec<_>>(), "vocabulary {vocab}");
    }
    assert!(compared > 20, "{compared}");
}

#[test]
fn filtered_rows_without_a_token_say_so() {
    let vocab = 3000;
    let draw = filtered(1.0, 5, 0.9, 0.1, Uniforms::new(1, 1));
    let run = |logits: &[f32]| draw_twin(logits, vocab, &[(0, &draw)])[0];
    assert_eq!(run(&vec![f32::NEG_INFINITY; vocab]), Drawn::NothingAllowed);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut logits = vec![0.0; vocab];
        logits[2999] = bad;
        assert_eq!(run(&logits), Drawn::NotFinite);
    }
    // Fewer than top_k that are possible at all, and what is greedy is not filtered.
    let mut logits = vec![f32::NEG_INFINITY; vocab];
    logits[2500] = -1e30;
    assert_eq!(run(&logits), Drawn::Token(2500));
    let greedy = Draw { temperature: 0.0, ..draw.clone() };
    assert_eq!(draw_twin(&logits, vocab, &[(0, &greedy)]), [Drawn::Token(2500)]);
}

/// Masks of every density beside rows that have none, with and without filters; a mask that is too short allows nothing past its end.
#[test]
fn masks_leave_what_they_allow() {
    let random = &mut Random::fresh();
    let mut compared = 0;
    for vocab in [1, 300, 2048, 5000] {
        let logits: Vec<f32> = random.f32s(5 * vocab).iter().map(|x| 6.0 * x).collect();
        let words = vocab.div_ceil(32);
        let mut bits = |density: f32| -> Vec<u32> {
            let mut word =
                || (0..32).fold(0, |word, _| word << 1 | u32::from(random.f32s(1)[0].abs() < density));
            (0..words).map(|_| word()).collect()
        };
        let masks =
            [Some(bits(0.5)), None, Some(bits(0.02)), Some(vec![u32::MAX; words / 2]), Some(bits(0.9))];
        let draws: Vec<(u32, Draw)> = masks
            .into_iter()
            .enumerate()
            .map(|(row, allowed)| {
                let uniform = f64::from(random.f32s(1)[0].abs());
                let plain = match row {
                    4 => filtered(1.0, 30, 0.8, 0.01, Uniforms::new(row as u64, 3)),
                    _ => Draw::plain([1.0, 0.4, 2.0][row % 3], uniform),
                };
                let forbidden = if row == 0 { vec![1, 2, 250] } else { vec![] };
                (row as u32, Draw { allowed, forbidden, ..plain })
            })
            .collect();
        let draws: Vec<(u32, &Draw)> = draws.iter().map(|(row, draw)| (*row, draw)).collect();
        for ((row, draw), found) in draws.iter().zip(draw_twin(&logits, vocab, &draws)) {
            let row = &logits[*row as usize * vocab..][..vocab];
            if !(0..vocab as u32).any(|id| draw.allows(id)) {
                assert_eq!(found, Drawn::NothingAllowed);
                continue;
            }
            let expected = match draw.filters {
                Some(_) => expected_filtered(row, draw),
                None => expected(row, draw),
            };
            if let Some(token) = expected {
                assert_eq!(found, Drawn::Token(token), "vocabulary {vocab}, {draw:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 10, "{compared}");
}
