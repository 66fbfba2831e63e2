//! What the kernels refuse, with the facts that made them refuse.

use candle_core::DType;

/// Result of the kernels.
pub type Result<T, E = KernelError> = std::result::Result<T, E>;

/// An input that an op cannot take.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Bytes of a weight do not match its shape.
    #[error("{what} of shape {shape:?} needs {expected} bytes, found {found}")]
    WeightLength {
        /// Which bytes.
        what: &'static str,
        /// Shape the bytes should fill.
        shape: Vec<usize>,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// Columns of an MXFP4 matrix are not whole blocks of 32.
    #[error("MXFP4 needs a multiple of 32 columns, found {cols}")]
    PartialBlock {
        /// Columns asked for.
        cols: usize,
    },
    /// A weight of a type that the matrix products do not take.
    #[error("weights must be bf16 or f32, found {found:?}")]
    WeightDType {
        /// Type asked for.
        found: DType,
    },
    /// An activation of another type or on another device than f32 on the CPU.
    #[error("{op} takes f32 activations, found {found:?}")]
    ActivationDType {
        /// The op that was called.
        op: &'static str,
        /// Type of the tensor.
        found: DType,
    },
    /// An argument has another shape than the op's weights ask for.
    #[error("{op}: {what} should be {expected}, found {found:?}")]
    Shape {
        /// The op that was called.
        op: &'static str,
        /// Which argument.
        what: &'static str,
        /// The shape in words.
        expected: String,
        /// The shape that came.
        found: Vec<usize>,
    },
    /// This processor lacks the instructions that were asked for.
    #[error("this processor cannot run the {isa} path")]
    IsaUnavailable {
        /// Name of the path.
        isa: &'static str,
    },
    /// The ranks of a model cannot be connected, or cannot reach each other.
    #[error("tensor parallelism: {message}")]
    Ranks {
        /// What is wrong.
        message: String,
    },
    /// A rank of the model failed, and this one waited for it.
    #[error("tensor parallelism: another rank gave up")]
    GaveUp,
    /// candle refused.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}
