//! Weights: where they come from, and how they become the parts of the model.

mod dummy;
mod layout;
mod loader;
mod safetensors;
mod write;

use std::path::PathBuf;

use ossia_kernels::WeightBytes;

pub(crate) use dummy::DummyWeights;
pub(crate) use loader::Loader;
pub(crate) use safetensors::Checkpoint;
pub use write::write_checkpoint;

use crate::ModelError;

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
