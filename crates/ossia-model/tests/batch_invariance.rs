//! The promise that makes `seed` mean something: a sequence's logits are the same bits whatever shares its
//! pass, however it is cut, wherever its blocks lie and however many threads compute it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Driver, Sequence, logits_of, parity_dir};
use ossia_model::{Backend, CacheType, ComputeType, DenseWeights, GptOss, GptOssConfig, ModelOptions};

const PROMPT_LEN: usize = 200;

fn model(name: &str, options: &ModelOptions) -> GptOss {
    let config = GptOssConfig::from_file(&parity_dir().join(format!("configs/{name}.json"))).unwrap();
    GptOss::dummy(config, 7, options).unwrap()
}

fn ids(seed: u32, len: usize) -> Vec<u32> {
    (0..len as u32).map(|i| (i + 1).wrapping_mul(2_654_435_761).wrapping_add(seed * 977) % 500).collect()
}

/// Bits, so that a NaN or a sign of zero cannot hide.
fn bits(logits: &[f32]) -> Vec<u32> {
    assert!(logits.iter().all(|x| x.is_finite()));
    logits.iter().map(|x| x.to_bits()).collect()
}

fn for_each_model(check: impl Fn(&GptOss)) {
    for name in ["tiny", "uneven"] {
        let exact = ModelOptions { compute: ComputeType::F32, ..ModelOptions::default() };
        let dense = |dense_weights| ModelOptions { dense_weights, ..ModelOptions::default() };
        let cut = ModelOptions {
            peers: vec![Backend::cpu(); if name == "tiny" { 1 } else { 2 }],
            ..ModelOptions::default()
        };
        let cache = |cache| ModelOptions { kv_cache: Some(cache), ..ModelOptions::default() };
        for options in [
            exact,
            ModelOptions::default(),
            dense(DenseWeights::Int8),
            dense(DenseWeights::Int10),
            cache(CacheType::Fp8),
            cache(CacheType::Int8),
            cut,
        ] {
            check(&model(name, &options));
        }
    }
}

#[test]
fn chunks_and_threads_do_not_show() {
    for_each_model(|model| {
        let ids = ids(1, PROMPT_LEN);
        let whole = bits(&logits_of(model, &ids, PROMPT_LEN));
        for threads in [1, 2, 3] {
            ossia_kernels::set_num_threads(threads);
            for chunk in [1, 7, 64, PROMPT_LEN] {
                assert!(
                    bits(&logits_of(model, &ids, chunk)) == whole,
                    "{threads} threads, chunks of {chunk}"
                );
            }
        }
    });
}

#[test]
fn the_batch_does_not_show() {
    for_each_model(|model| {
        let alone = bits(&logits_of(model, &ids(1, PROMPT_LEN), PROMPT_LEN));
        // Fifteen others, each cut in its own way, so that every pass mixes prefill and decode.
        let mut driver = Driver::new(model, 1024, 77);
        let mut sequences: Vec<Sequence> =
            (1..17).map(|seed| driver.sequence(&ids(seed, PROMPT_LEN))).collect();
        let vocab_size = model.config().vocab_size;
        let mut first = Vec::new();
        for pass in 0.. {
            let parts = sequences.iter_mut().enumerate().filter_map(|(idx, seq)| {
                let wanted = if (idx + pass) % 3 == 0 { 1 } else { 1 + idx * 5 };
                let num_tokens = wanted.min(seq.ids.len() - seq.computed);
                (num_tokens > 0).then_some((seq, num_tokens))
            });
            // The sequence under test comes last, so that its rows are not the first of the pass.
            let mut parts: Vec<(&mut Sequence, usize)> = parts.collect();
            parts.reverse();
            if parts.is_empty() {
                break;
            }
            let under_test =
                parts.last().filter(|(seq, _)| seq.ids[0] == ids(1, 1)[0]).map_or(0, |(_, n)| *n);
            let logits = driver.step(&mut parts);
            first.extend_from_slice(&logits.data()[logits.data().len() - under_test * vocab_size..]);
        }
        assert!(bits(&first) == alone);
    });
}
