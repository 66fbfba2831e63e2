//! How a matrix product takes its activations.

/// Precision of the activations in matrix products; weights are always taken exactly and sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ComputeType {
    /// Activations as they are, f32 products.
    F32,
    /// Activations rounded to bf16 (nearest even). Uses AMX where the processor has it.
    Bf16,
}
