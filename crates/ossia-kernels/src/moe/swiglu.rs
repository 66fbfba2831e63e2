//! The experts' activation: a clamped SwiGLU with one added to the linear half.

/// Slope of the sigmoid.
pub const SWIGLU_ALPHA: f32 = 1.702;

/// `(up + 1) * gate * sigmoid(1.702 * gate)`, gate clamped above and up on both sides.
pub(super) fn swiglu(gate: f32, up: f32, limit: f32) -> f32 {
    let gate = gate.min(limit);
    let up = up.clamp(-limit, limit);
    (up + 1.0) * (gate / (1.0 + (-SWIGLU_ALPHA * gate).exp()))
}
