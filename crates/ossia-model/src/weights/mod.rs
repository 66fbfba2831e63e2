//! Weights: where they come from, and how they become the parts of the model.

mod damage;
mod dummy;
mod extent;
mod layout;
mod loader;
mod safetensors;
mod write;

use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use ossia_kernels::WeightBytes;

pub use damage::{DamagedTensor, find_damage};
pub(crate) use dummy::DummyWeights;
pub(crate) use extent::Extent;
pub(crate) use layout::MXFP4_BLOCK;
pub(crate) use loader::Loader;
pub(crate) use safetensors::Checkpoint;
pub use write::write_checkpoint;

use crate::{DenseWeights, GptOssConfig, ModelError};

/// How the weights of a checkpoint are come by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightAccess {
    /// Where they lie, in mapped files: ready at once, and the system may take their memory back.
    #[default]
    Mapped,
    /// Read into memory of their own, in huge pages where the system gives them, which it cannot take back.
    Read,
}

/// Fresh memory, in huge pages where the system gives them: 13 GB in small ones is 3 million faults.
fn huge_pages(len: usize) -> std::io::Result<MmapMut> {
    let mut map = MmapMut::map_anon(len)?;
    ossia_kernels::ask_for_huge_pages(&mut map);
    Ok(map)
}

/// Bytes of a model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightSizes {
    /// All of them.
    pub total_bytes: u64,
    /// The experts of all layers, a part of that.
    pub expert_bytes: u64,
    /// The matrices of attention, another one.
    pub attention_bytes: u64,
    /// The lm_head, if it is not the embedding.
    pub lm_head_bytes: u64,
}

impl WeightSizes {
    fn of(tensors: impl Iterator<Item = (impl AsRef<str>, u64)>) -> Self {
        let mut sizes = Self { total_bytes: 0, expert_bytes: 0, attention_bytes: 0, lm_head_bytes: 0 };
        for (name, bytes) in tensors {
            sizes.total_bytes += bytes;
            let name = name.as_ref();
            if name.contains(".mlp.experts.") {
                sizes.expert_bytes += bytes;
            } else if name.contains(".self_attn.") && name.ends_with("_proj.weight") {
                sizes.attention_bytes += bytes;
            } else if name == "lm_head.weight" {
                sizes.lm_head_bytes += bytes;
            }
        }
        sizes
    }

    /// Bytes of all weights once matrices in bf16 are rounded: to 8.5 or 10.5 bits a weight, scales included.
    pub fn kept_bytes(&self, dense_weights: DenseWeights) -> u64 {
        let saved = |bytes: u64, half_bits: u64| bytes - bytes * half_bits / 32;
        let (attention, lm_head) = match dense_weights {
            DenseWeights::AsStored => (0, 0),
            DenseWeights::Int8LmHead => (0, saved(self.lm_head_bytes, 17)),
            DenseWeights::Int8 => (saved(self.attention_bytes, 17), saved(self.lm_head_bytes, 17)),
            DenseWeights::Int10 => (saved(self.attention_bytes, 21), saved(self.lm_head_bytes, 17)),
        };
        self.total_bytes - attention - lm_head
    }

    /// Bytes of the weights that each rank of a model in tensor parallel has whole.
    pub fn replicated_bytes(&self) -> u64 {
        self.total_bytes - self.expert_bytes - self.attention_bytes - self.lm_head_bytes
    }

    /// Of the checkpoint in `dir`, nothing of it read but headers.
    ///
    /// # Errors
    /// Names the file that is missing or damaged.
    pub fn of_checkpoint(dir: &Path) -> Result<Self, ModelError> {
        Ok(Self::of(Checkpoint::open(dir, WeightAccess::Mapped)?.sizes()))
    }

    /// Of random weights.
    ///
    /// # Errors
    /// [`ModelError::Config`] if MXFP4 cannot hold the shape.
    pub fn of_dummy(config: &GptOssConfig) -> Result<Self, ModelError> {
        Ok(Self::of(DummyWeights::new(config, 0)?.sizes()))
    }
}

/// How much of the weights is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes read (or made) so far.
    pub loaded_bytes: u64,
    /// Bytes of the whole checkpoint.
    pub total_bytes: u64,
}

/// A tensor as it is stored.
#[derive(Debug)]
pub(crate) struct RawTensor {
    /// Name as in safetensors: `BF16`, `U8`, ...
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: WeightBytes,
    /// File that holds it.
    pub(crate) path: PathBuf,
}

/// Where weights come from: a checkpoint, or thin air.
pub(crate) trait WeightSource: Send + Sync {
    /// The tensor, `None` if there is none of that name.
    fn tensor(&self, name: &str) -> Result<Option<RawTensor>, ModelError>;

    /// File (or folder) in which a missing tensor would have been.
    fn place_of(&self, name: &str) -> PathBuf;

    /// Bytes of all tensors.
    fn total_bytes(&self) -> u64;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rounded_matrices_take_what_they_are_said_to() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/parity/configs/tiny.json");
        let config = GptOssConfig::from_file(&path).unwrap();
        let sizes = WeightSizes::of_dummy(&config).unwrap();
        let hidden = config.hidden_size;
        let attention = config.num_hidden_layers * hidden * 2 * (config.q_size() + config.kv_size());
        let lm_head = config.vocab_size * hidden;
        assert_eq!(sizes.attention_bytes, 2 * attention as u64);
        assert_eq!(sizes.lm_head_bytes, 2 * lm_head as u64);
        let saved = |dense| sizes.total_bytes - sizes.kept_bytes(dense);
        assert_eq!(saved(DenseWeights::AsStored), 0);
        assert_eq!(saved(DenseWeights::Int8LmHead), 15 * lm_head as u64 / 16);
        assert_eq!(saved(DenseWeights::Int8), 15 * (attention + lm_head) as u64 / 16);
        assert_eq!(saved(DenseWeights::Int10), (11 * attention + 15 * lm_head) as u64 / 16);
    }
}
