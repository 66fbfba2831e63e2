//! Which part of a stored tensor is taken: a range of each of its dimensions.

use std::ops::Range;

use ossia_kernels::WeightBytes;

/// One dimension of a stored tensor, and the range of it that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    size: usize,
    part: Range<usize>,
}

/// All of it.
impl From<usize> for Extent {
    fn from(size: usize) -> Self {
        Self { size, part: 0..size }
    }
}

impl Extent {
    /// The range `part` of a dimension of `size`.
    pub(crate) fn new(size: usize, part: Range<usize>) -> Self {
        Self { size, part }
    }

    /// The whole dimension.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// How much of it is taken.
    pub(crate) fn len(&self) -> usize {
        self.part.len()
    }

    /// The same where each element is stored as `count`.
    pub(crate) fn times(&self, count: usize) -> Self {
        Self { size: self.size * count, part: self.part.start * count..self.part.end * count }
    }

    /// The same where each `block` elements are stored as one; the part begins at one.
    pub(crate) fn in_blocks(&self, block: usize) -> Self {
        let part = self.part.start / block..self.part.end.div_ceil(block);
        Self { size: self.size.div_ceil(block), part }
    }
}

/// The taken part of a tensor with `element_bytes` for each element. A part of the first dimension shares the bytes; what lies
/// scattered is copied. `None` if the bytes are fewer than the dimensions say.
pub(super) fn take(bytes: &WeightBytes, dims: &[Extent], element_bytes: usize) -> Option<WeightBytes> {
    // Dimensions before the last one that is cut are walked; those after it are contiguous.
    let Some(last_cut) = dims.iter().rposition(|dim| dim.len() != dim.size()) else {
        return Some(bytes.clone());
    };
    let unit = dims[last_cut + 1..].iter().map(Extent::size).product::<usize>() * element_bytes;
    let (walked, cut) = (&dims[..last_cut], &dims[last_cut]);
    if walked.is_empty() {
        return bytes.slice(cut.part.start * unit..cut.part.end * unit);
    }
    let rows = walked.iter().fold(vec![0], |rows, dim| {
        rows.iter().flat_map(|row| dim.part.clone().map(move |idx| row * dim.size + idx)).collect()
    });
    let mut taken = Vec::with_capacity(rows.len() * cut.len() * unit);
    for row in rows {
        let start = row * cut.size;
        let row = (start + cut.part.start) * unit..(start + cut.part.end) * unit;
        taken.extend_from_slice(bytes.as_slice().get(row)?);
    }
    Some(WeightBytes::owned(taken))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The part of `[4, 3, 5]` u16 elements that counts them, by the definition.
    #[test]
    fn the_part_is_what_its_indices_say() {
        let all: Vec<u8> = (0..4 * 3 * 5u16).flat_map(u16::to_le_bytes).collect();
        let bytes = WeightBytes::owned(all);
        let ranges = [[0..4, 0..3, 0..5], [1..3, 0..3, 0..5], [0..4, 1..2, 0..5], [1..4, 0..2, 3..5]];
        for parts in ranges {
            let dims: Vec<Extent> = [4, 3, 5]
                .into_iter()
                .zip(parts.clone())
                .map(|(size, part)| Extent::new(size, part))
                .collect();
            let taken = take(&bytes, &dims, 2).unwrap();
            let mut expected = Vec::new();
            for a in parts[0].clone() {
                for b in parts[1].clone() {
                    expected
                        .extend(parts[2].clone().flat_map(|c| ((a * 15 + b * 5 + c) as u16).to_le_bytes()));
                }
            }
            assert_eq!(taken.as_slice(), expected, "{parts:?}");
        }
        let longer = [Extent::new(5, 1..5), Extent::from(15)];
        assert!(take(&bytes, &longer, 2).is_none());
    }

    #[test]
    fn blocks_hold_the_part() {
        let extent = Extent::new(96, 32..96);
        assert_eq!(extent.in_blocks(32), Extent::new(3, 1..3));
        assert_eq!(extent.times(2), Extent::new(192, 64..192));
        assert_eq!(Extent::from(40).in_blocks(32), Extent::from(2));
    }
}
