//! How a matrix product takes its activations.

/// Precision of the activations in matrix products; weights are always taken exactly and sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ComputeType {
    /// Activations as they are, f32 products.
    F32,
    /// Activations of 16 bits where that is faster: rounded to bf16 (nearest even) for AMX; for MXFP4 weights with
    /// VNNI and no AMX integers of 16 bits with a power of two per 32 values, which is finer. Else as they are.
    Bf16,
}
