//! How a matrix product takes its activations.

/// Precision of the activations in matrix products; weights are always taken exactly and sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ComputeType {
    /// Activations as they are, f32 products.
    F32,
    /// Activations of 16 bits: rounded to bf16 (nearest even), or for MXFP4 weights on processors with VNNI and
    /// without AMX to integers of 16 bits with a power of two per 32 values, which is finer.
    Bf16,
}
