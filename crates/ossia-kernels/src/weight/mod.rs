//! Weights as the checkpoint stores them: mapped or owned bytes with a shape. Only rounding to 8 bits makes a copy.

mod bytes;
mod experts;
mod int8;
mod matrix;
mod view;

pub use bytes::WeightBytes;
pub(crate) use experts::ExpertParts;
pub use experts::ExpertWeights;
pub(crate) use int8::Int8View;
pub use matrix::Matrix;
pub(crate) use view::{Format, MatrixView};

use crate::{KernelError, Result};

/// Fails unless `bytes` are exactly those of `shape` with `unit` bytes per element.
fn check_len(what: &'static str, bytes: &WeightBytes, shape: &[usize], unit: usize) -> Result<()> {
    // A shape past all memory saturates, and then no bytes fit it.
    let expected = shape.iter().fold(unit, |bytes, dim| bytes.saturating_mul(*dim));
    let found = bytes.len();
    if found == expected {
        return Ok(());
    }
    Err(KernelError::WeightLength { what, shape: shape.to_vec(), expected, found })
}
