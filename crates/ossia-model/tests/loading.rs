//! Checkpoints on disk: what is written is what is loaded, and damage is named.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{logits_of, parity_dir};
use half::{bf16, f16};
use ossia_model::{
    Backend, ComputeType, DenseWeights, GptOss, GptOssConfig, ModelError, ModelOptions, WeightAccess,
    write_checkpoint,
};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};

const OPTIONS: ModelOptions = ModelOptions {
    compute: ComputeType::F32,
    dense_weights: DenseWeights::AsStored,
    backend: Backend::cpu(),
    peers: Vec::new(),
    cpu_moe: 0,
    kv_cache: None,
    weight_access: WeightAccess::Mapped,
};
const IDS: [u32; 9] = [1, 5, 9, 300, 2, 2, 411, 7, 60];

fn config() -> GptOssConfig {
    GptOssConfig::from_file(&parity_dir().join("configs/tiny.json")).unwrap()
}

fn load(dir: &Path) -> Result<GptOss, ModelError> {
    GptOss::load(dir, &OPTIONS, &mut |_| {})
}

/// A tensor that a test may change.
#[derive(Clone)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

type Tensors = HashMap<String, Stored>;

/// A random checkpoint whose tensors went through `change`.
fn changed(change: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(dir.path(), &config(), 1).unwrap();
    let path = dir.path().join("model.safetensors");
    let file = std::fs::read(&path).unwrap();
    let stored = |view: TensorView| Stored {
        dtype: view.dtype(),
        shape: view.shape().to_vec(),
        data: view.data().to_vec(),
    };
    let mut tensors: Tensors = SafeTensors::deserialize(&file)
        .unwrap()
        .iter()
        .map(|(name, view)| (name.to_owned(), stored(view)))
        .collect();
    change(&mut tensors);
    let views =
        tensors.iter().map(|(name, t)| (name, TensorView::new(t.dtype, t.shape.clone(), &t.data).unwrap()));
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
    dir
}

#[test]
fn a_written_checkpoint_is_the_dummy_model() {
    let dummy = GptOss::dummy(config(), 1, &OPTIONS).unwrap();
    let dir = changed(|_| {});
    let mut seen = Vec::new();
    let loaded = GptOss::load(dir.path(), &OPTIONS, &mut |progress| seen.push(progress)).unwrap();
    assert_eq!(loaded.config(), dummy.config());
    assert_eq!(logits_of(&loaded, &IDS, 9), logits_of(&dummy, &IDS, 9));
    assert_eq!(loaded.weight_bytes(), dummy.weight_bytes());
    let last = seen.last().unwrap();
    assert_eq!(
        (last.loaded_bytes, last.total_bytes),
        (dummy.weight_bytes() as u64, dummy.weight_bytes() as u64)
    );
    assert!(seen.windows(2).all(|pair| pair[0].loaded_bytes <= pair[1].loaded_bytes));
}

#[test]
fn an_indexed_checkpoint_is_read_from_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let whole = changed(|_| {});
    let file = std::fs::read(whole.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut weight_map = serde_json::Map::new();
    for part in 0..2 {
        let name = format!("model-{part:05}-of-00001.safetensors");
        let views: Vec<_> = tensors.iter().filter(|(tensor, _)| tensor.len() % 2 == part).collect();
        weight_map.extend(views.iter().map(|(tensor, _)| (tensor.to_string(), name.clone().into())));
        std::fs::write(dir.path().join(name), serialize(views, None).unwrap()).unwrap();
    }
    std::fs::copy(whole.path().join("config.json"), dir.path().join("config.json")).unwrap();
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, serde_json::json!({ "weight_map": weight_map }).to_string()).unwrap();
    let expected = logits_of(&load(whole.path()).unwrap(), &IDS, 9);
    assert_eq!(logits_of(&load(dir.path()).unwrap(), &IDS, 9), expected);

    std::fs::write(&index, r#"{"weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}"#).unwrap();
    assert!(message(load(dir.path())).contains("expected a file name"));
    std::fs::write(&index, r#"{"weight_map": {"lm_head.weight": "absent.safetensors"}}"#).unwrap();
    assert!(message(load(dir.path())).contains("absent.safetensors"));
    std::fs::write(&index, "{").unwrap();
    assert!(message(load(dir.path())).contains("model.safetensors.index.json is not valid JSON"));
}

fn message(loaded: Result<GptOss, ModelError>) -> String {
    match loaded {
        Ok(_) => panic!("loaded"),
        Err(error) => error.to_string(),
    }
}

/// The error of a checkpoint after `change`.
fn refusal(change: impl FnOnce(&mut Tensors)) -> String {
    message(load(changed(change).path()))
}

#[test]
fn damage_is_named() {
    const Q: &str = "model.layers.1.self_attn.q_proj.weight";
    const BLOCKS: &str = "model.layers.0.mlp.experts.gate_up_proj_blocks";
    let check = |change: fn(&mut Tensors), expected: &[&str]| {
        let message = refusal(change);
        for part in expected {
            assert!(message.contains(part), "{message} lacks {part}");
        }
    };
    check(|t| drop(t.remove(Q)), &["missing", Q, "model.safetensors", "[64, 64]"]);
    check(|t| drop(t.remove(BLOCKS)), &["missing", BLOCKS, "U8 [4, 192, 2, 16]"]);
    check(
        |t| t.get_mut(Q).unwrap().shape = vec![32, 128],
        &[Q, "expected", "[64, 64]", "found BF16 [32, 128]"],
    );
    check(|t| t.get_mut(BLOCKS).unwrap().dtype = Dtype::I8, &[BLOCKS, "expected U8", "found I8"]);
    check(
        |t| {
            let scales = t.get_mut("model.layers.0.mlp.experts.down_proj_scales").unwrap();
            scales.shape = vec![4, 3, 64];
        },
        &["down_proj_scales", "[4, 64, 3]", "[4, 3, 64]"],
    );
}

#[test]
fn a_truncated_file_is_named() {
    for keep in [0, 5, 100, 20_000, 200_000] {
        let dir = changed(|_| {});
        let path = dir.path().join("model.safetensors");
        let file = std::fs::read(&path).unwrap();
        std::fs::write(&path, &file[..keep]).unwrap();
        let message = message(load(dir.path()));
        assert!(message.contains("model.safetensors"), "{message}");
        assert!(message.contains("truncated") || message.contains("too short"), "{message}");
    }
    let dir = changed(|_| {});
    std::fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    assert!(message(load(dir.path())).contains("model.safetensors"));
    std::fs::write(dir.path().join("model.safetensors"), vec![b'x'; 1000]).unwrap();
    assert!(message(load(dir.path())).contains("not a safetensors file"));
}

/// Widens every bf16 tensor but the norms, exactly.
fn convert(tensors: &mut Tensors, dtype: Dtype, to_bytes: fn(f32) -> Vec<u8>) {
    for tensor in tensors.values_mut().filter(|tensor| tensor.dtype == Dtype::BF16 && tensor.shape.len() > 1)
    {
        tensor.dtype = dtype;
        let values = tensor.data.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32());
        tensor.data = values.flat_map(to_bytes).collect();
    }
}

#[test]
fn f32_and_f16_weights_of_fine_tunes_load() {
    let expected = logits_of(&load(changed(|_| {}).path()).unwrap(), &IDS, 9);
    let f32 = changed(|tensors| convert(tensors, Dtype::F32, |x| x.to_le_bytes().to_vec()));
    assert_close(&logits_of(&load(f32.path()).unwrap(), &IDS, 9), &expected, 1e-5);
    // bf16 has more range than f16, so that the smallest weights lose bits.
    let f16 = changed(|tensors| convert(tensors, Dtype::F16, |x| f16::from_f32(x).to_le_bytes().to_vec()));
    assert_close(&logits_of(&load(f16.path()).unwrap(), &IDS, 9), &expected, 1e-3);
}

fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    let largest = expected.iter().fold(0f32, |max, x| max.max(x.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= tolerance * largest, "{found} {expected}");
    }
}

/// Replaces MXFP4 experts by the same values in bf16, transposed as bf16 checkpoints have them.
fn dequantise(tensors: &mut Tensors, prefix: &str) {
    const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    let blocks = tensors.remove(&format!("{prefix}_blocks")).unwrap();
    let scales = tensors.remove(&format!("{prefix}_scales")).unwrap();
    let (experts, rows, cols) = (blocks.shape[0], blocks.shape[1], blocks.shape[2] * 32);
    let mut data = vec![0; experts * rows * cols * 2];
    for at in 0..experts * rows * cols {
        let code = blocks.data[at / 2] >> (4 * (at % 2)) & 15;
        let sign = if code >= 8 { -1.0 } else { 1.0 };
        let value = sign * E2M1[usize::from(code % 8)] * (f32::from(scales.data[at / 32]) - 127.0).exp2();
        let (expert, row, col) = (at / (rows * cols), at / cols % rows, at % cols);
        let to = 2 * ((expert * cols + col) * rows + row);
        data[to..to + 2].copy_from_slice(&bf16::from_f32(value).to_le_bytes());
    }
    tensors.insert(prefix.to_owned(), Stored { dtype: Dtype::BF16, shape: vec![experts, cols, rows], data });
}

#[test]
fn bf16_experts_give_what_mxfp4_experts_give() {
    let expected = logits_of(&load(changed(|_| {}).path()).unwrap(), &IDS, 9);
    let bf16 = changed(|tensors| {
        for layer in 0..2 {
            for name in ["gate_up_proj", "down_proj"] {
                dequantise(tensors, &format!("model.layers.{layer}.mlp.experts.{name}"));
            }
        }
    });
    assert_close(&logits_of(&load(bf16.path()).unwrap(), &IDS, 9), &expected, 1e-5);
    let two_ranks = ModelOptions { peers: vec![Backend::cpu()], ..OPTIONS };
    let cut = GptOss::load(bf16.path(), &two_ranks, &mut |_| {}).unwrap();
    assert_close(&logits_of(&cut, &IDS, 9), &expected, 1e-5);
}

#[test]
fn a_shape_that_mxfp4_cannot_hold_is_refused() {
    let config = GptOssConfig { hidden_size: 72, ..config() };
    assert!(message(GptOss::dummy(config, 1, &OPTIONS)).contains("hidden_size"));
    let config = GptOssConfig { vocab_size: u32::MAX as usize, hidden_size: 1 << 31, ..self::config() };
    assert!(message(GptOss::dummy(config, 1, &OPTIONS)).contains("64 TiB"));
}
