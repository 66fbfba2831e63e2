//! The sampler against plain f64 arithmetic, and against candle's.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling};
use proptest::prelude::*;

use super::row::Ranked;
use super::*;
use crate::AllowedTokens;

/// Samples `num_draws` tokens from the same row with the seeds 0, 1, ...; how often each was drawn.
fn draw(logits: &[f32], params: &SamplingParams, num_draws: u64) -> Vec<u32> {
    let mut counts = vec![0; logits.len()];
    for seed in 0..num_draws {
        let params = SamplingParams { seed: Some(seed), ..params.clone() };
        counts[sample_one(params, None, &mut logits.to_vec()).expect("finite") as usize] += 1;
    }
    counts
}

fn sample_one(
    params: SamplingParams,
    constraint: Option<Box<dyn TokenConstraint>>,
    row: &mut [f32],
) -> Result<u32, SampleError> {
    SequenceSampler::new(params, constraint, &[]).sample(row, 0, &[]).map(|token| token.id)
}

/// Tokens in the order of their probability, with their probabilities.
fn ranked(logits: &[f32], temperature: f32) -> Vec<(u32, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mass = |logit: f32| (f64::from(logit - max) / f64::from(temperature)).exp();
    let total: f64 = logits.iter().map(|&logit| mass(logit)).sum();
    let probability = |(id, &logit): (u32, &f32)| (id, mass(logit) / total);
    let mut ranked: Vec<_> = (0..).zip(logits).map(probability).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    ranked
}

/// The distribution that the parameters ask for, by sorting.
fn expected(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    let mut kept = ranked(logits, params.temperature);
    let best = kept[0].1;
    kept.retain(|(_, probability)| *probability >= f64::from(params.min_p) * best);
    if params.top_k > 0 {
        kept.truncate(params.top_k as usize);
    }
    let total: f64 = kept.iter().map(|(_, probability)| probability).sum();
    let mut before = 0.0;
    kept.retain(|(_, probability)| {
        let keep = before < f64::from(params.top_p) * total;
        before += probability;
        keep
    });
    let total: f64 = kept.iter().map(|(_, probability)| probability).sum();
    let mut distribution = vec![0.0; logits.len()];
    kept.iter().for_each(|&(id, probability)| distribution[id as usize] = probability / total);
    distribution
}

/// Pearson's statistic, minus its mean, in units of its standard deviation. Tokens too rare for it (fewer
/// than 5 expected draws) are counted as one.
fn chi_square_sigmas(counts: &[u32], distribution: &[f64]) -> f64 {
    let num_draws: f64 = counts.iter().copied().map(f64::from).sum();
    let (mut rare, mut cells) = ((0.0, 0.0), Vec::new());
    for (&count, &probability) in counts.iter().zip(distribution) {
        assert!(count == 0 || probability > 0.0, "a token that was filtered out");
        let (count, expected) = (f64::from(count), num_draws * probability);
        match expected < 5.0 {
            true => rare = (rare.0 + count, rare.1 + expected),
            false => cells.push((count, expected)),
        }
    }
    cells.extend((rare.1 >= 5.0).then_some(rare));
    let statistic: f64 = cells.iter().map(|(count, expected)| (count - expected).powi(2) / expected).sum();
    let degrees = cells.len() as f64 - 1.0;
    (statistic - degrees) / (2.0 * degrees).sqrt()
}

/// Rows long enough for several chunks, with a few probable tokens and a tail.
fn test_row(len: usize, spread: f32) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + 13) % 1009) as f32 / 1009.0 * spread - 3.0).collect()
}

#[test]
fn draws_follow_the_distribution() {
    let base = SamplingParams::default();
    let cases = [
        base.clone(),
        SamplingParams { temperature: 0.5, ..base.clone() },
        SamplingParams { temperature: 2.0, ..base.clone() },
        SamplingParams { top_p: 0.9, ..base.clone() },
        SamplingParams { top_p: 0.3, temperature: 1.3, ..base.clone() },
        SamplingParams { top_k: 7, ..base.clone() },
        SamplingParams { min_p: 0.2, ..base.clone() },
        SamplingParams { top_k: 20, top_p: 0.7, min_p: 0.05, temperature: 0.8, ..base },
    ];
    for params in cases {
        let logits = test_row(700, 6.0);
        let sigmas = chi_square_sigmas(&draw(&logits, &params, 40_000), &expected(&logits, &params));
        assert!(sigmas.abs() < 5.0, "{params:?}: off by {sigmas} standard deviations");
    }
}

#[test]
fn draws_agree_with_candles() {
    const NUM_DRAWS: u64 = 20_000;
    let logits = test_row(60, 5.0);
    let tensor = Tensor::new(&logits[..], &Device::Cpu).expect("a tensor");
    let base = SamplingParams { temperature: 0.7, ..SamplingParams::default() };
    let cases = [
        (base.clone(), Sampling::All { temperature: 0.7 }),
        (SamplingParams { top_k: 9, ..base.clone() }, Sampling::TopK { k: 9, temperature: 0.7 }),
        (SamplingParams { top_p: 0.8, ..base }, Sampling::TopP { p: 0.8, temperature: 0.7 }),
    ];
    for (params, sampling) in cases {
        let mut theirs = vec![0.0; logits.len()];
        let mut processor = LogitsProcessor::from_sampling(1, sampling);
        for _ in 0..NUM_DRAWS {
            theirs[processor.sample(&tensor).expect("a token") as usize] += 1.0 / NUM_DRAWS as f64;
        }
        let ours = draw(&logits, &params, NUM_DRAWS);
        for (id, (&ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            let ours = f64::from(ours) / NUM_DRAWS as f64;
            let sigma = (ours.max(theirs) / NUM_DRAWS as f64 * 2.0).sqrt();
            assert!((ours - theirs).abs() <= 5.0 * sigma, "{params:?}, {id}: {ours} and {theirs}");
        }
    }
}

#[test]
fn greedy_takes_the_first_of_the_best() {
    for temperature in [0.0, 1e-9] {
        let params = SamplingParams { temperature, ..SamplingParams::default() };
        let mut row = vec![0.0; 600];
        (row[300], row[301]) = (2.0, 2.0);
        assert_eq!(sample_one(params, None, &mut row), Ok(300));
    }
}

#[test]
fn tiny_temperatures_and_huge_logits_stay_finite() {
    let mut row = test_row(600, 6.0);
    row[123] = 3.0e38;
    row[124] = -3.0e38;
    for temperature in [1e-5, 1e-3, 1.0, 1e30] {
        let params = SamplingParams { temperature, top_p: 0.9, ..SamplingParams::default() };
        let token = sample_one(params, None, &mut row.clone());
        assert!(token.is_ok(), "{temperature}: {token:?}");
    }
}

/// Allows what it is told to.
#[derive(Debug)]
struct Fixed(Vec<u32>);

impl TokenConstraint for Fixed {
    fn allowed(&mut self) -> AllowedTokens<'_> {
        AllowedTokens::Only(&self.0)
    }

    fn accept(&mut self, _token: u32) {}
}

#[test]
fn an_impossible_mask_is_an_error() {
    let nothing = Some(Box::new(Fixed(vec![])) as Box<dyn TokenConstraint>);
    let sampled = sample_one(SamplingParams::default(), nothing, &mut [1.0, 2.0]);
    assert_eq!(sampled, Err(SampleError::NothingAllowed));
}

#[test]
fn min_tokens_holds_stop_tokens_back_unless_nothing_else_is_allowed() {
    let params = SamplingParams { min_tokens: 1, ..SamplingParams::greedy() };
    let sample = |constraint, num_generated| {
        let mut sampler = SequenceSampler::new(params.clone(), constraint, &[]);
        sampler.sample(&mut [1.0, 9.0, 5.0], num_generated, &[1]).map(|token| token.id)
    };
    assert_eq!(sample(None, 0), Ok(2));
    assert_eq!(sample(None, 1), Ok(1));
    assert_eq!(sample(Some(Box::new(Fixed(vec![1]))), 0), Ok(1), "the grammar wants the stop token");
}

#[test]
fn biases_move_the_choice_but_not_the_logprobs() {
    let params =
        SamplingParams { logit_bias: vec![(0, 100.0)], logprobs: Some(2), ..SamplingParams::greedy() };
    let mut sampler = SequenceSampler::new(params, None, &[]);
    let token = sampler.sample(&mut [0.0, 2.0, 1.0], 0, &[]).expect("finite");
    let logprobs = token.logprobs.expect("asked for");
    let normaliser = (1.0 + 2f32.exp() + 1f32.exp()).ln();
    assert_eq!(token.id, 0);
    assert!((logprobs.logprob + normaliser).abs() < 1e-6);
    assert_eq!(logprobs.top.iter().map(|top| top.id).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn penalties_follow_what_was_generated() {
    let params = SamplingParams { frequency_penalty: 1.0, ..SamplingParams::greedy() };
    let mut sampler = SequenceSampler::new(params, None, &[0]);
    let mut next = || sampler.sample(&mut [3.0, 2.5, 0.0], 0, &[]).expect("finite").id;
    assert_eq!([next(), next(), next(), next()], [0, 1, 0, 1]);
}

/// Logits with many ties, some of them masked, at least one not.
fn logits_strategy() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        4 => (-40i8..40).prop_map(|x| f32::from(x) / 4.0),
        1 => Just(f32::NEG_INFINITY),
        1 => -20.0f32..20.0,
    ];
    prop::collection::vec(logit, 0..900).prop_map(|mut logits| {
        logits.push(0.5);
        logits
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// The kept tokens are a prefix of the ranked ones, of the length that top_k and min_p say.
    #[test]
    fn top_k_and_min_p_keep_what_sorting_keeps(
        logits in logits_strategy(),
        top_k in 1u32..950,
        min_p in prop_oneof![Just(0.0f32), 0.001f32..1.0],
        temperature in 0.1f32..3.0,
    ) {
        let params = SamplingParams { top_k, min_p, temperature, ..SamplingParams::default() };
        let row = Row::scan(&logits).expect("finite");
        let kept: Vec<u32> = row.tokens(filters::cutoff(&row, &params)).map(|token| token.token).collect();
        let limit = row.max() + temperature * min_p.ln();
        let mut expected: Vec<(u32, f64)> = ranked(&logits, temperature);
        expected.retain(|(id, _)| logits[*id as usize].is_finite() && logits[*id as usize] >= limit);
        expected.truncate(top_k as usize);
        let mut expected: Vec<u32> = expected.into_iter().map(|(id, _)| id).collect();
        expected.sort_unstable();
        prop_assert_eq!(kept, expected);
    }

    /// A drawn token is one of the fewest ranked ones whose mass reaches top_p, up to rounding.
    #[test]
    fn top_p_draws_from_the_fewest_that_reach_it(
        logits in logits_strategy(),
        top_p in prop_oneof![0.0001f32..1.0, Just(0.9f32), Just(f32::MIN_POSITIVE), Just(0.999_999_94f32)],
        temperature in 0.1f32..3.0,
        seed: u64,
    ) {
        let params = SamplingParams { top_p, temperature, seed: Some(seed), ..SamplingParams::default() };
        let token = sample_one(params, None, &mut logits.clone()).expect("finite");
        let ranked = ranked(&logits, temperature);
        let before = ranked.iter().take_while(|(id, _)| *id != token);
        let mass_before: f64 = before.map(|(_, probability)| probability).sum();
        prop_assert!(mass_before < f64::from(top_p) + 3e-6, "{} before {}", mass_before, token);
    }

    /// The mass up to a token is that of the tokens ranked before it and its own.
    #[test]
    fn mass_counts_what_reaches_the_cutoff(logits in logits_strategy(), at in 0usize..900) {
        let row = Row::scan(&logits).expect("finite");
        let token = (at % logits.len()) as u32;
        prop_assume!(logits[token as usize].is_finite());
        let total = row.mass(0.7, Ranked::LAST).total;
        let found = row.mass(0.7, row.ranked(token)).total / total;
        let ranked = ranked(&logits, 0.7);
        let place = ranked.iter().position(|(id, _)| *id == token).expect("a token of the row");
        let expected: f64 = ranked[..=place].iter().map(|(_, probability)| probability).sum();
        prop_assert!((found - expected).abs() < 1e-6, "{} and {}", found, expected);
    }

    /// A mask is kept whatever the parameters.
    #[test]
    fn a_masked_token_is_never_chosen(
        logits in logits_strategy(),
        allowed in prop::collection::vec(0u32..900, 1..5),
        seed: u64,
        top_k in 0u32..5,
        top_p in 0.01f32..=1.0,
        temperature in prop_oneof![Just(0.0f32), 0.01f32..5.0],
    ) {
        let params = SamplingParams { seed: Some(seed), top_k, top_p, temperature, ..SamplingParams::default() };
        let possible = |id: &u32| logits.get(*id as usize).is_some_and(|logit| logit.is_finite());
        let sampled = sample_one(params, Some(Box::new(Fixed(allowed.clone()))), &mut logits.clone());
        match sampled {
            Ok(id) => prop_assert!(allowed.contains(&id) && possible(&id)),
            Err(error) => {
                prop_assert_eq!(error, SampleError::NothingAllowed);
                prop_assert!(!allowed.iter().any(possible));
            }
        }
    }
}

/// Prints microseconds per row; `cargo test --release -p ossia-engine sampler_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "a measurement")]
fn sampler_speed() {
    const VOCAB_SIZE: usize = 201_088;
    let base = SamplingParams { seed: Some(1), ..SamplingParams::default() };
    let cases = [
        ("greedy", SamplingParams::greedy()),
        ("temperature 1", base.clone()),
        ("top_p 0.9", SamplingParams { top_p: 0.9, ..base.clone() }),
        ("top_k 50", SamplingParams { top_k: 50, ..base.clone() }),
        ("logprobs 20", SamplingParams { logprobs: Some(20), ..base }),
    ];
    let flat = test_row(VOCAB_SIZE, 6.0);
    let peaked: Vec<f32> =
        flat.iter().enumerate().map(|(i, x)| if i % 20_011 == 7 { x + 12.0 } else { *x }).collect();
    for (shape, logits) in [("peaked", peaked), ("flat", flat)] {
        for (name, params) in &cases {
            let mut sampler = SequenceSampler::new(params.clone(), None, &[]);
            let mut row = logits.clone();
            let start = std::time::Instant::now();
            for count in 0..100 {
                sampler.sample(&mut row, count, &[]).expect("finite");
            }
            println!("{shape:7} {name:14} {:7.0} us", start.elapsed().as_secs_f64() * 1e4);
        }
    }
}
