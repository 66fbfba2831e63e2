//! The whole model on the first CUDA device against the CPU: on a GPU, or over the driver that runs our kernels' CPU twins
//! (`cargo xtask cuda-dry-run`). Passes are of up to eight tokens, which need no kernel of candle's and no cuBLAS.

#![allow(clippy::unwrap_used)]

mod common;

use candle_core::Device;
use common::{logits_of, parity_dir};
use ossia_model::{
    Backend, BlockTable, CacheType, ComputeType, DenseWeights, Draw, Drawn, ForwardBatch, GptOss,
    GptOssConfig, KvMetadata, ModelOptions, TokenDraw,
};

/// Crosses blocks and, for the demo, the window.
const LEN: usize = 150;

fn backend() -> Backend {
    let device = Device::new_cuda_with_stream(0).unwrap();
    let backend = Backend::new(&device, ComputeType::Bf16).unwrap();
    assert!(backend.name().contains("our kernels"), "{}", backend.name());
    backend
}

/// Root mean square of the difference over that of the CPU's exact logits, with weights and cache kept as `kept` says on
/// both sides.
fn error(load: impl Fn(&ModelOptions) -> GptOss, kept: &ModelOptions, chunk: usize) -> f64 {
    let exact = load(&ModelOptions { compute: ComputeType::F32, ..kept.clone() });
    let on_device = load(&ModelOptions { backend: backend(), ..kept.clone() });
    let vocab_size = exact.config().vocab_size as u32;
    let ids: Vec<u32> = (0..LEN as u32).map(|i| i.wrapping_mul(2_654_435_761) % vocab_size).collect();
    let (found, expected) = (logits_of(&on_device, &ids, chunk), logits_of(&exact, &ids, LEN));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut found.iter().zip(&expected).map(|(f, e)| f64::from(f - e)));
    difference / norm(&mut expected.iter().map(|&e| f64::from(e)))
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn random_weights() {
    let plain = ModelOptions::default();
    let int8 = ModelOptions { dense_weights: DenseWeights::Int8, ..ModelOptions::default() };
    let fp8 = ModelOptions { kv_cache: Some(CacheType::Fp8), ..ModelOptions::default() };
    // A key that differs by little may be rounded to another number of three bits.
    for (name, chunk, kept, limit) in [
        ("tiny", 1, &plain, 0.02),
        ("tiny", 8, &plain, 0.02),
        ("uneven", 3, &plain, 0.02),
        ("tiny", 5, &int8, 0.02),
        ("tiny", 5, &fp8, 0.05),
    ] {
        let config = || GptOssConfig::from_file(&parity_dir().join(format!("configs/{name}.json"))).unwrap();
        let error = error(|options| GptOss::dummy(config(), 1, options).unwrap(), kept, chunk);
        eprintln!("{name}, {chunk} tokens a pass: {error:.2e}");
        assert!(error < limit, "{name}, {chunk} tokens a pass: {error}");
    }
}

/// One token at the same position of each of some sequences, each with a block of its own in either group.
fn decode_batch(input_ids: &[u32], position: u32) -> ForwardBatch {
    let count = input_ids.len() as u32;
    let group = |first_block: u32| KvMetadata {
        block_tables: (0..count)
            .map(|seq| BlockTable { first_block_idx: 0, blocks: vec![first_block + seq] })
            .collect(),
        slot_mapping: (0..count).map(|seq| (first_block + seq) * 16 + position).collect(),
    };
    ForwardBatch {
        input_ids: input_ids.to_vec(),
        positions: vec![position; input_ids.len()],
        cu_seqlens_q: (0..=count).collect(),
        context_lens: vec![position + 1; input_ids.len()],
        full: group(0),
        sliding: group(count),
        logits_indices: (0..count).collect(),
        draw_rows: vec![],
    }
}

/// A model with random weights on the device.
fn random_model(config: &str) -> GptOss {
    let config = GptOssConfig::from_file(&parity_dir().join(format!("configs/{config}.json"))).unwrap();
    GptOss::dummy(config, 1, &ModelOptions { backend: backend(), ..ModelOptions::default() }).unwrap()
}

/// Passes that decode are recorded the second time and replayed from then on; some rows are drawn, some wanted.
#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn replayed_passes_draw_what_their_logits_say() {
    let model = random_model("tiny");
    assert!(model.draws());
    let mut kv = model.allocate_kv_cache(64, 16).unwrap();
    let mut rows = Vec::new();
    for position in 0..6 {
        // The same token of two sequences: drawn from one, wanted of the other.
        let batch = ForwardBatch {
            logits_indices: vec![1],
            draw_rows: vec![0],
            ..decode_batch(&[7 + position; 2], position)
        };
        let logits = model.forward(&batch, &mut kv).unwrap();
        let row = logits.row(0);
        let mut ranked: Vec<usize> = (0..row.len()).collect();
        ranked.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
        // Masks may be known only now: this one is of all tokens but the best.
        let allowed = (0..row.len().div_ceil(32))
            .map(|word| if ranked[0] / 32 == word { !(1 << (ranked[0] % 32)) } else { u32::MAX });
        let draw = Draw { allowed: (position > 2).then(|| allowed.collect()), ..Draw::plain(0.0, 0.0) };
        let expected = if draw.allowed.is_some() { ranked[1] } else { ranked[0] };
        let drawn = model.draw(&[TokenDraw { row: 0, draw }], &mut kv).unwrap();
        assert_eq!(drawn, [Drawn::Token(expected as u32)], "position {position}");
        rows.push(row.to_vec());
    }
    assert!(rows.windows(2).all(|rows| rows[0] != rows[1]), "a replay computes anew");
}

/// A chunk of a prompt asks for no logits; what it wrote into the cache is there for the next.
#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn a_pass_without_logits_fills_the_cache() {
    let model = random_model("tiny");
    let last_row = |asks: bool| {
        let mut kv = model.allocate_kv_cache(8, 16).unwrap();
        for position in 0..3 {
            let mut batch = decode_batch(&[7 + position], position);
            batch.logits_indices.retain(|_| asks);
            assert_eq!(model.forward(&batch, &mut kv).unwrap().rows(), usize::from(asks));
        }
        model.forward(&decode_batch(&[50], 3), &mut kv).unwrap().row(0).to_vec()
    };
    assert!(last_row(true) == last_row(false));
}

/// A batch that needs more room for what it reads moves it; what was recorded before must not be replayed over the old place.
#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn a_larger_batch_between_replays_does_no_harm() {
    let model = random_model("uneven");
    let run = |between: bool| {
        let mut kv = model.allocate_kv_cache(200, 16).unwrap();
        let mut rows = Vec::new();
        for position in 0..6 {
            // Sixty-four sequences in blocks that the others do not have.
            if between && position == 4 {
                let mut many = decode_batch(&[3; 64], 0);
                for group in [&mut many.full, &mut many.sliding] {
                    group.block_tables.iter_mut().for_each(|table| table.blocks[0] += 10);
                    group.slot_mapping.iter_mut().for_each(|slot| *slot += 160);
                }
                model.forward(&many, &mut kv).unwrap();
            }
            rows.push(
                model.forward(&decode_batch(&[7 + position], position), &mut kv).unwrap().row(0).to_vec(),
            );
        }
        rows
    };
    assert!(run(true) == run(false));
}

/// Two ranks, each with our kernels on a device of its own, connected by NCCL; passes of several rows gather their logits row by row.
#[test]
#[ignore = "needs two CUDA devices, or cargo xtask cuda-dry-run"]
fn ranks_on_two_devices() {
    let config = || GptOssConfig::from_file(&parity_dir().join("configs/tiny.json")).unwrap();
    let second = Backend::new(&Device::new_cuda_with_stream(1).unwrap(), ComputeType::Bf16).unwrap();
    let load = |options: &ModelOptions| {
        let on_device = options.backend.device().is_cuda();
        let peers = if on_device { vec![second.clone()] } else { vec![] };
        GptOss::dummy(config(), 1, &ModelOptions { peers, ..options.clone() }).unwrap()
    };
    for chunk in [1, 8] {
        let error = error(load, &ModelOptions::default(), chunk);
        eprintln!("two ranks, {chunk} tokens a pass: {error:.2e}");
        assert!(error < 0.02, "{chunk} tokens a pass: {error}");
    }
    // Tokens are drawn where all logits are: here of the second of two sequences that are the same.
    let model = load(&ModelOptions { backend: backend(), ..ModelOptions::default() });
    let mut kv = model.allocate_kv_cache(8, 16).unwrap();
    let batch = ForwardBatch { logits_indices: vec![0], draw_rows: vec![1], ..decode_batch(&[7; 2], 0) };
    let logits = model.forward(&batch, &mut kv).unwrap();
    let row = logits.row(0);
    let best = (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
    let draw = TokenDraw { row: 0, draw: Draw::plain(0.0, 0.0) };
    assert_eq!(model.draw(std::slice::from_ref(&draw), &mut kv).unwrap(), [Drawn::Token(best as u32)]);
    assert!(model.draw(&[TokenDraw { row: 1, ..draw }], &mut kv).is_err());
    // A device that is both ranks is none of NCCL's.
    let same = ModelOptions { backend: backend(), peers: vec![backend()], ..ModelOptions::default() };
    let error = GptOss::dummy(config(), 1, &same).err().unwrap().to_string();
    assert!(error.contains("NCCL does not connect CUDA devices [0, 0]"), "{error}");
}

#[test]
#[ignore = "needs a CUDA device, or cargo xtask cuda-dry-run"]
fn trained_weights() {
    let demo = parity_dir().join("../../models/demo");
    let load = |options: &ModelOptions| GptOss::load(&demo, options, &mut |_| {}).unwrap();
    let error = error(load, &ModelOptions::default(), 8);
    eprintln!("demo: {error:.2e}");
    assert!(error < 0.1, "{error}");
}
