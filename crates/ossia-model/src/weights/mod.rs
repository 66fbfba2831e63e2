//! Weights: where they come from, and how they become the parts of the model.

mod damage;
mod dummy;
mod layout;
mod loader;
mod safetensors;
mod write;

use std::path::{Path, PathBuf};

use memmap2::MmapMut;
use ossia_kernels::WeightBytes;

pub use damage::{DamagedTensor, find_damage};
pub(crate) use dummy::DummyWeights;
pub(crate) use loader::Loader;
pub(crate) use safetensors::Checkpoint;
pub use write::write_checkpoint;

use crate::{GptOssConfig, ModelError};

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
}

impl WeightSizes {
    fn of(tensors: impl Iterator<Item = (impl AsRef<str>, u64)>) -> Self {
        let mut sizes = Self { total_bytes: 0, expert_bytes: 0 };
        for (name, bytes) in tensors {
            sizes.total_bytes += bytes;
            if name.as_ref().contains(".mlp.experts.") {
                sizes.expert_bytes += bytes;
            }
        }
        sizes
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
pub(crate) trait WeightSource {
    /// The tensor, `None` if there is none of that name.
    fn tensor(&self, name: &str) -> Result<Option<RawTensor>, ModelError>;

    /// File (or folder) in which a missing tensor would have been.
    fn place_of(&self, name: &str) -> PathBuf;

    /// Bytes of all tensors.
    fn total_bytes(&self) -> u64;
}
