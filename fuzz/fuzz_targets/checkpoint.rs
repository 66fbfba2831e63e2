//! Checkpoints from strangers: each file may be anything, or a good one with a few bytes changed or cut off.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use ossia_model::{GptOss, GptOssConfig, ModelOptions, write_checkpoint};
use tempfile::TempDir;

/// Two layers that load in no time.
const CONFIG: &str = r#"{"model_type": "gpt_oss", "attention_bias": true, "experts_per_token": 2, "head_dim": 16, "hidden_size": 32,
    "intermediate_size": 32, "max_position_embeddings": 4096, "num_attention_heads": 2, "num_hidden_layers": 2,
    "num_key_value_heads": 1, "num_local_experts": 2, "rms_norm_eps": 1e-05, "rope_theta": 150000, "sliding_window": 16,
    "swiglu_limit": 7.0, "tie_word_embeddings": false, "vocab_size": 64, "hidden_act": "silu", "eos_token_id": 2,
    "quantization_config": {"quant_method": "mxfp4"}}"#;

struct Good {
    dir: TempDir,
    weights: Vec<u8>,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a directory");
    let config = GptOssConfig::from_json(CONFIG).expect("a configuration");
    write_checkpoint(dir.path(), &config, 1).expect("a checkpoint");
    let weights = std::fs::read(dir.path().join("model.safetensors")).expect("weights");
    load(dir.path().to_path_buf()).expect("the good one loads");
    Good { dir, weights }
});

fn load(dir: PathBuf) -> Result<GptOss, ossia_model::ModelError> {
    GptOss::load(&dir, &ModelOptions::default(), &mut |_| {})
}

/// The good weights, changed where `patches` say: three bytes of place, one to put there. The first two bytes cut.
fn damaged(data: &[u8]) -> Vec<u8> {
    let mut weights = GOOD.weights.clone();
    let (cut, patches) = data.split_at(data.len().min(2));
    for patch in patches.chunks_exact(4) {
        let place = u32::from_le_bytes([patch[0], patch[1], patch[2], 0]) as usize % weights.len();
        weights[place] = patch[3];
    }
    if let [low, high] = *cut {
        let kept = weights.len() - (usize::from(u16::from_le_bytes([low, high])) % weights.len());
        weights.truncate(kept);
    }
    weights
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, data)) = data.split_first() else { return };
    let (name, bytes) = match choice % 4 {
        0 => {
            // A configuration that is taken may ask for any amount of weights, which are not there.
            let _ = GptOssConfig::from_json(&String::from_utf8_lossy(data));
            ("config.json", data.to_vec())
        }
        1 => ("model.safetensors", damaged(data)),
        2 => ("model.safetensors", data.to_vec()),
        _ => ("model.safetensors.index.json", data.to_vec()),
    };
    let path = GOOD.dir.path().join(name);
    let before = std::fs::read(&path).ok();
    std::fs::write(&path, bytes).expect("written");
    let _ = load(GOOD.dir.path().to_path_buf());
    match before {
        Some(before) => std::fs::write(&path, before).expect("written"),
        None => std::fs::remove_file(&path).expect("removed"),
    }
});
