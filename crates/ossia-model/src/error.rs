//! Everything that can go wrong between a checkpoint folder and its logits.

use std::path::PathBuf;

/// An error of this crate. Each variant carries the facts: file, tensor, expected and found.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A field of config.json is missing, of the wrong type or out of range.
    #[error("config.json: `{field}` {message}")]
    Config {
        /// The field, with its parent (`rope_scaling.factor`).
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// config.json or an index is not JSON.
    #[error("{path} is not valid JSON: {message}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The JSON parser's message.
        message: String,
    },
    /// The checkpoint is of another model family.
    #[error("model_type is `{model_type}`: only `gpt_oss` checkpoints can be loaded")]
    UnsupportedModel {
        /// What config.json says.
        model_type: String,
    },
    /// A file could not be opened, read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A safetensors file (or its index) is damaged.
    #[error("{path}: {message}")]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The checkpoint lacks a tensor.
    #[error("tensor `{tensor}` is missing from {path}, expected {expected}")]
    MissingTensor {
        /// Name of the tensor.
        tensor: String,
        /// File (or folder, if no file is named for it) that should hold it.
        path: PathBuf,
        /// Expected dtype and shape.
        expected: String,
    },
    /// A tensor has another shape or dtype than the configuration implies.
    #[error("tensor `{tensor}` in {path}: expected {expected}, found {found}")]
    WrongTensor {
        /// Name of the tensor.
        tensor: String,
        /// File that holds it.
        path: PathBuf,
        /// Expected dtype and shape.
        expected: String,
        /// Dtype and shape in the file.
        found: String,
    },
    /// A [`crate::ForwardBatch`] contradicts itself or the model's limits.
    #[error("forward batch: `{field}` {message}")]
    Batch {
        /// The field.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// An op refused its input.
    #[error(transparent)]
    Kernel(#[from] ossia_kernels::KernelError),
    /// candle failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
