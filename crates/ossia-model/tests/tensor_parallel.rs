//! A model that is cut over ranks computes what the whole one does; here the ranks are threads on the CPU.

#![allow(clippy::unwrap_used)]

mod common;

use common::{logits_of, parity_dir};
use ossia_model::{
    Backend, CacheType, ComputeType, DenseWeights, ForwardBatch, GptOss, GptOssConfig, ModelError,
    ModelOptions,
};

fn config(name: &str) -> GptOssConfig {
    GptOssConfig::from_file(&parity_dir().join(format!("configs/{name}.json"))).unwrap()
}

fn on_ranks(num_ranks: usize, options: &ModelOptions) -> ModelOptions {
    ModelOptions { peers: vec![Backend::cpu(); num_ranks - 1], ..options.clone() }
}

/// Root mean square of the difference over that of what is expected.
fn error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(expected).map(|(f, e)| f64::from(f - e)));
    difference / norm(&mut expected.iter().map(|&e| f64::from(e)))
}

/// Two ranks with two blocks and one of each expert's width; three of which each has the whole lm_head, because its rows cannot be
/// shared out; and in candle's own ops.
#[test]
fn ranks_compute_what_the_whole_model_does() {
    let exact = ModelOptions { compute: ComputeType::F32, ..ModelOptions::default() };
    let int8 = ModelOptions {
        dense_weights: DenseWeights::Int8,
        kv_cache: Some(CacheType::Int8),
        ..ModelOptions::default()
    };
    for (name, num_ranks, options, limit) in [
        ("tiny", 2, &exact, 1e-5),
        ("uneven", 3, &exact, 1e-5),
        ("tiny", 2, &ModelOptions::default(), 0.01),
        // Other columns share a scale where heads of 16 are cut.
        ("tiny", 2, &int8, 0.03),
    ] {
        let ids: Vec<u32> = (0..150u32).map(|i| i.wrapping_mul(2_654_435_761) % 500).collect();
        let whole = GptOss::dummy(config(name), 3, options).unwrap();
        let cut = GptOss::dummy(config(name), 3, &on_ranks(num_ranks, options)).unwrap();
        let error = error(&logits_of(&cut, &ids, 40), &logits_of(&whole, &ids, 150));
        assert!(error < limit, "{name} on {num_ranks} ranks: {error:.1e}");
        assert_eq!(cut.kv_bytes_per_block(16), whole.kv_bytes_per_block(16));
    }
    let generic = ModelOptions { backend: Backend::generic(&candle_core::Device::Cpu), ..exact };
    let peers = vec![generic.backend.clone()];
    let whole = GptOss::dummy(config("tiny"), 3, &generic).unwrap();
    let cut = GptOss::dummy(config("tiny"), 3, &ModelOptions { peers, ..generic }).unwrap();
    assert!(error(&logits_of(&cut, &[7, 8, 9], 3), &logits_of(&whole, &[7, 8, 9], 3)) < 1e-5);
}

#[test]
fn a_trained_model_says_the_same_on_two_ranks() {
    let demo = parity_dir().join("../../models/demo");
    let load = |options: &ModelOptions| GptOss::load(&demo, options, &mut |_| {}).unwrap();
    let whole = load(&ModelOptions::default());
    let cut = load(&on_ranks(2, &ModelOptions::default()));
    let ids: Vec<u32> = (0..200).map(|i| (i * 37) % 1000).collect();
    let error = error(&logits_of(&cut, &ids, 64), &logits_of(&whole, &ids, 200));
    assert!(error < 0.02, "{error:.1e}");
    // Norms, routers, biases and the embedding are on both.
    assert!(cut.weight_bytes() > whole.weight_bytes() && cut.weight_bytes() < 2 * whole.weight_bytes());
}

#[test]
fn what_cannot_be_shared_out_is_refused_by_its_field() {
    let refused = |name: &str, num_ranks: usize| match GptOss::dummy(
        config(name),
        3,
        &on_ranks(num_ranks, &ModelOptions::default()),
    )
    .err()
    .unwrap()
    {
        ModelError::Config { field, message } => format!("{field} {message}"),
        other => panic!("{other}"),
    };
    assert_eq!(refused("tiny", 3), "num_key_value_heads is 2, which cannot be shared out evenly to 3 ranks");
    let narrow = GptOssConfig { intermediate_size: 32, ..config("tiny") };
    let error = GptOss::dummy(narrow, 3, &on_ranks(2, &ModelOptions::default())).err().unwrap();
    assert!(error.to_string().contains("`intermediate_size` has 1 blocks of 32 for 2 ranks"), "{error}");
}

#[test]
fn a_cache_of_other_ranks_is_refused() {
    let whole = GptOss::dummy(config("tiny"), 3, &ModelOptions::default()).unwrap();
    let cut = GptOss::dummy(config("tiny"), 3, &on_ranks(2, &ModelOptions::default())).unwrap();
    let mut cache = whole.allocate_kv_cache(4, 16).unwrap();
    let batch = &ForwardBatch { cu_seqlens_q: vec![0], ..ForwardBatch::default() };
    let error = cut.forward(batch, &mut cache).unwrap_err();
    assert!(error.to_string().contains("`kv` is a cache of 1 ranks"), "{error}");
}
