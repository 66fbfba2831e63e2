//! f32 activations for the paths without tiles.

use crate::Isa;
use crate::cpu::Scratch;
use crate::weight::Format;

/// Values that a path takes at a time; rows are padded with zeros to whole blocks.
pub(super) const BLOCK: usize = 32;

/// Values of a page of memory.
const PAGE: usize = 1024;

/// Where in a block of 32 the value for each position comes from.
pub(super) type Order = [u8; BLOCK];

/// Where a register tile starts: weight row `first_row + r`, token `t`, in an output `width` wide.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
pub(super) struct Corner {
    pub(super) first_row: usize,
    pub(super) width: usize,
    pub(super) r: usize,
    pub(super) t: usize,
}

/// Rows of activations, padded to whole blocks, in the order in which a path decodes weights.
pub(crate) struct F32Rows {
    num_tokens: usize,
    /// Values from row to row: whole blocks, and never whole pages, which would put the same columns of several
    /// rows in the same lines of the cache.
    stride: usize,
    values: Scratch,
}

impl F32Rows {
    /// Packs rows of `cols` values each.
    pub(super) fn pack<'a>(
        order: Order,
        cols: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) -> Self {
        let num_tokens = rows.len();
        let stride = cols.next_multiple_of(BLOCK);
        let stride = if stride.is_multiple_of(PAGE) { stride + BLOCK } else { stride };
        let mut values = Scratch::new(num_tokens * stride);
        for (row, packed) in rows.zip(values.chunks_mut(stride)) {
            pack_row(order, row, packed);
        }
        Self { num_tokens, stride, values }
    }

    /// Number of rows.
    pub(super) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// One row, padded.
    pub(super) fn row(&self, token: usize) -> &[f32] {
        &self.values[token * self.stride..(token + 1) * self.stride]
    }
}

fn pack_row(order: Order, row: &[f32], packed: &mut [f32]) {
    for (from, to) in row.chunks(BLOCK).zip(packed.chunks_mut(BLOCK)) {
        for (to, idx) in to.iter_mut().zip(order) {
            *to = from.get(usize::from(idx)).copied().unwrap_or(0.0);
        }
    }
}

/// The order in which `isa` decodes a block of weights in `format`.
pub(super) fn order(format: Format<'_>, isa: Isa) -> Order {
    let natural = std::array::from_fn(|position| position as u8);
    match (format, isa) {
        (Format::Mxfp4 { .. }, Isa::Avx2) => nibble_order::<8>(),
        (Format::Mxfp4 { .. }, Isa::Avx512) => nibble_order::<16>(),
        _ => natural,
    }
}

/// The order of a block decoded in registers of `LANES` 32-bit lanes: the block's four dwords repeat
/// through the lanes, each repetition shifted by one nibble more, each register by `LANES / 4` more.
fn nibble_order<const LANES: usize>() -> Order {
    std::array::from_fn(|position| {
        let (register, lane) = (position / LANES, position % LANES);
        let nibble = register * (LANES / 4) + lane / 4;
        (8 * (lane % 4) + nibble) as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_name_each_value_once() {
        for order in [nibble_order::<8>(), nibble_order::<16>()] {
            let mut seen = order;
            seen.sort_unstable();
            assert_eq!(seen.to_vec(), (0..32).collect::<Vec<u8>>());
        }
    }

    #[test]
    fn rows_are_padded_with_zeros() {
        let order = nibble_order::<16>();
        let row: Vec<f32> = (1..=33).map(|v| v as f32).collect();
        let packed = F32Rows::pack(order, 33, [&row[..]].into_iter());
        assert_eq!(packed.row(0)[..4], [1.0, 9.0, 17.0, 25.0]);
        assert_eq!(packed.row(0)[32], 33.0);
        assert!(packed.row(0)[33..].iter().all(|v| *v == 0.0));
    }
}
