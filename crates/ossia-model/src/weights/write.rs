//! Writing a random-weight checkpoint in the Hugging Face layout of gpt-oss.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::dummy::fill;
use super::layout::{self, TensorSpec};
use crate::{GptOssConfig, ModelError};

/// Largest file; the checkpoint is split where a tensor would pass it.
const MAX_SHARD_BYTES: usize = 4_800_000_000;

/// Bytes made and written at a time; a multiple of 8.
const CHUNK_BYTES: usize = 16 << 20;

/// Writes config.json, generation_config.json and MXFP4 weights into `dir` (made if absent): the weights
/// that [`crate::GptOss::dummy`] makes of the same configuration and seed. Needs little memory.
///
/// # Errors
/// [`ModelError::Io`], or [`ModelError::Config`] if MXFP4 cannot hold the shape.
pub fn write_checkpoint(dir: &Path, config: &GptOssConfig, seed: u64) -> Result<(), ModelError> {
    write_sharded(dir, config, seed, MAX_SHARD_BYTES)
}

/// [`write_checkpoint`] with files of at most `max_shard_bytes` (or one tensor).
pub(crate) fn write_sharded(
    dir: &Path,
    config: &GptOssConfig,
    seed: u64,
    max_shard_bytes: usize,
) -> Result<(), ModelError> {
    let specs = layout::tensors(config)?;
    let io_error = |source| ModelError::Io { path: dir.into(), source };
    std::fs::create_dir_all(dir).map_err(io_error)?;
    let write_text = |name: &str, text: String| std::fs::write(dir.join(name), text).map_err(io_error);
    write_text("config.json", config.to_json(true))?;
    let eos = json!({ "eos_token_id": config.eos_token_ids, "pad_token_id": config.pad_token_id });
    write_text("generation_config.json", format!("{eos:#}\n"))?;
    let shards = split(&specs, max_shard_bytes);
    let mut weight_map = Map::new();
    for (idx, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_owned(),
            // The names of openai/gpt-oss-20b count from 0 to the last index.
            count => format!("model-{idx:05}-of-{:05}.safetensors", count - 1),
        };
        write_shard(&dir.join(&name), shard, seed).map_err(io_error)?;
        weight_map.extend(shard.iter().map(|spec| (spec.name.clone(), json!(name))));
    }
    if shards.len() > 1 {
        let total: usize = specs.iter().map(TensorSpec::size_bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_text("model.safetensors.index.json", format!("{index:#}\n"))?;
    }
    Ok(())
}

/// Cuts the tensors into runs of at most `max_bytes` (or one tensor).
fn split(specs: &[TensorSpec], max_bytes: usize) -> Vec<&[TensorSpec]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (idx, spec) in specs.iter().enumerate() {
        if idx > start && bytes + spec.size_bytes() > max_bytes {
            shards.push(&specs[start..idx]);
            (start, bytes) = (idx, 0);
        }
        bytes += spec.size_bytes();
    }
    shards.push(&specs[start..]);
    shards
}

fn write_shard(path: &Path, specs: &[TensorSpec], seed: u64) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let header = header(specs);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut chunk = vec![0; CHUNK_BYTES];
    for spec in specs {
        let size = spec.size_bytes();
        for offset in (0..size).step_by(CHUNK_BYTES) {
            let chunk = &mut chunk[..CHUNK_BYTES.min(size - offset)];
            fill(spec, seed, offset, chunk);
            file.write_all(chunk)?;
        }
    }
    file.flush()
}

/// The JSON header of safetensors, padded so that the data starts at a multiple of 8.
fn header(specs: &[TensorSpec]) -> String {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for spec in specs {
        let end = offset + spec.size_bytes();
        let entry = json!({ "dtype": spec.dtype, "shape": spec.shape, "data_offsets": [offset, end] });
        header.insert(spec.name.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Checkpoint, DummyWeights, WeightAccess, WeightSource};

    const CONFIG: &str = include_str!("../../../../tests/parity/configs/tiny.json");

    #[test]
    fn shards_hold_what_the_dummy_makes() {
        let config = GptOssConfig::from_json(CONFIG).expect("a good file");
        let dummy = DummyWeights::new(&config, 5).expect("a good shape");
        for max_shard_bytes in [1, 40_000, usize::MAX] {
            let dir = tempfile::tempdir().expect("a folder");
            write_sharded(dir.path(), &config, 5, max_shard_bytes).expect("written");
            for access in [WeightAccess::Mapped, WeightAccess::Read] {
                let checkpoint = Checkpoint::open(dir.path(), access).expect("readable");
                assert_eq!(checkpoint.total_bytes(), dummy.total_bytes());
                for spec in layout::tensors(&config).expect("a good shape") {
                    let read = |source: &dyn WeightSource| {
                        source.tensor(&spec.name).expect("readable").expect("present")
                    };
                    let (stored, made) = (read(&checkpoint), read(&dummy));
                    assert_eq!((&stored.dtype, &stored.shape), (&made.dtype, &made.shape));
                    assert!(stored.bytes.as_slice() == made.bytes.as_slice(), "{}", spec.name);
                }
            }
        }
    }
}
