//! A panel of weights of 8 or 10 bits as it lies in memory, for ways that read it in registers.

use half::f16;

use super::{BLOCK, LANES};
use crate::weight::Int8View;

/// Bytes of 16 rows of a block.
pub(super) const BYTES: usize = LANES * BLOCK;
/// Dwords of a row's low bits in a block.
pub(super) const LOW_DWORDS: usize = 2;

/// Where a panel lies.
pub(super) struct Source {
    pub(super) values: *const i8,
    pub(super) low_bits: *const u32,
    pub(super) scales: *const f16,
}

impl Source {
    pub(super) fn new(weight: Int8View, panel: usize) -> Self {
        let first_block = panel * weight.num_blocks;
        let low_len = if weight.low_bits.is_empty() { 0 } else { LOW_DWORDS * LANES };
        Self {
            values: weight.values[first_block * BYTES..][..weight.num_blocks * BYTES].as_ptr(),
            low_bits: weight.low_bits[first_block * low_len..][..weight.num_blocks * low_len].as_ptr(),
            scales: weight.double_scales[first_block * LANES..][..weight.num_blocks * LANES].as_ptr(),
        }
    }
}
