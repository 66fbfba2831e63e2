//! `ossia logits`: the logits of every position of a prompt, for parity checks by anyone.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};

use crate::cli::LogitsArgs;
use crate::direct::Direct;
use crate::load;

/// Reads ids, runs the model in chunks, writes `logits` [num_tokens, vocab_size] in f32.
pub(crate) fn run(args: &LogitsArgs) -> Result<()> {
    load::set_threads(&args.threads)?;
    let ids = read_ids(&args.ids)?;
    let chunk = args.chunk.unwrap_or(ids.len());
    ensure!(chunk > 0, "--chunk must be at least 1");
    let options = load::device_options(args.dtype, &args.kept)?;
    let model = load::checkpoint(&args.model, &options)?;
    let vocab_size = model.config().vocab_size;
    let mut direct = Direct::new(model, 1, ids.len(), chunk)?;
    let mut rows = Vec::with_capacity(ids.len() * vocab_size);
    for (index, part) in ids.chunks(chunk).enumerate() {
        let logits = direct.forward(&[part], index * chunk, true)?;
        for row in 0..logits.rows() {
            rows.extend_from_slice(logits.row(row));
        }
    }
    let tensor = Tensor::from_vec(rows, (ids.len(), vocab_size), &Device::Cpu)?;
    candle_core::safetensors::save(&HashMap::from([("logits", tensor)]), &args.out)
        .with_context(|| format!("cannot write {}", args.out.display()))
}

fn read_ids(path: &Path) -> Result<Vec<u32>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let ids: Vec<u32> = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a list of token ids", path.display()))?;
    ensure!(!ids.is_empty(), "{} holds no token id", path.display());
    Ok(ids)
}
