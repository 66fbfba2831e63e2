//! Weights of a few rows as 16-bit integers, side by side, for many tokens to meet.

use std::ops::Range;

use super::{BLOCK, GROUP, LANES, Mxfp4Rows, PAIRS};
use crate::cpu::Scratch;
use crate::weight::Int8View;

/// Halves of a panel, of [`LANES`] rows each.
pub(super) const WIDTH: usize = 2;
/// Rows of a panel.
pub(super) const ROWS: usize = WIDTH * LANES;

/// Blocks of a group.
pub(super) const BLOCKS: usize = GROUP / BLOCK;

/// 32 rows, a row per lane: some groups of them as `[blocks, 16 pairs, 32 rows]` of two weights each, and a scale per
/// block and row.
pub(super) struct Panel {
    /// The rows of each half. A half without rows of its own repeats the first.
    rows: [Range<usize>; WIDTH],
    /// Pairs of 16-bit integers, as bits.
    pairs: Scratch,
    /// Of all blocks, `[blocks of the rows, 32 rows]`.
    scales: Scratch,
}

impl Panel {
    /// An empty panel for `groups` at a time of rows of `num_groups` groups.
    pub(super) fn new(groups: usize, num_groups: usize) -> Self {
        Self {
            rows: [0..0, 0..0],
            pairs: Scratch::new(groups * BLOCKS * PAIRS * ROWS),
            scales: Scratch::new(num_groups * BLOCKS * ROWS),
        }
    }

    /// The pairs of the `block`th block of the groups that were filled in, `[16, 32 rows]`.
    pub(super) fn pairs(&self, block: usize) -> *const i32 {
        self.pairs[block * PAIRS * ROWS..].as_ptr().cast()
    }

    /// The scales of block `block` of the rows, `[32 rows]`.
    pub(super) fn scales(&self, block: usize) -> *const f32 {
        self.scales[block * ROWS..].as_ptr()
    }

    /// Goes on to `rows`, at most 32 of them: their scales. What the lanes of rows past them hold is not said.
    ///
    /// # Safety
    /// The instructions of `U`; the rows are in range and have as many groups as the panel was made for.
    pub(super) unsafe fn begin<U, S: PanelSource<U>>(&mut self, weight: S, rows: Range<usize>) {
        self.rows = std::array::from_fn(|half| {
            let first = rows.start + half * LANES;
            let first = if first < rows.end { first } else { rows.start };
            first..rows.end.min(first + LANES)
        });
        for (half, rows) in self.rows.iter().enumerate() {
            // SAFETY: the caller's promise.
            unsafe { weight.fill_scales(rows.clone(), &mut self.scales[half * LANES..]) };
        }
    }

    /// Unpacks `groups` of the rows, at most as many as the panel is for. Blocks past the end of the rows are zero.
    ///
    /// # Safety
    /// As [`Panel::begin`], which came before with the same weights; the groups begin within the rows.
    pub(super) unsafe fn fill<U, S: PanelSource<U>>(&mut self, weight: S, groups: Range<usize>) {
        for (half, rows) in self.rows.iter().enumerate() {
            for (group, to) in groups.clone().zip(self.pairs.chunks_exact_mut(BLOCKS * PAIRS * ROWS)) {
                // SAFETY: the caller's promise.
                unsafe { weight.fill_group(rows.clone(), group, &mut to[half * LANES..]) };
            }
        }
    }
}

/// Bytes of a cache line.
const LINE: usize = 64;

/// Weights that lie somewhere.
pub(super) trait Lines: Copy {
    /// Adds the cache lines that a panel of `rows` is filled from with `groups`, with the first ones scales that are far apart.
    /// Rows and groups may be past the end.
    fn add_lines(self, rows: Range<usize>, groups: Range<usize>, lines: &mut Vec<*const u8>);
}

impl Lines for Mxfp4Rows<'_> {
    fn add_lines(self, rows: Range<usize>, groups: Range<usize>, lines: &mut Vec<*const u8>) {
        let row_len = self.num_blocks * BLOCK / 2;
        if groups.start == 0 {
            let scales = (rows.start * self.num_blocks..rows.end * self.num_blocks).step_by(LINE);
            lines.extend(scales.map(|at| self.scales.as_ptr().wrapping_add(at)));
        }
        for row in rows {
            let row = self.blocks.as_ptr().wrapping_add(row * row_len);
            lines.extend(groups.clone().map(|group| row.wrapping_add(group * GROUP / 2)));
        }
    }
}

impl Lines for Int8View<'_> {
    fn add_lines(self, rows: Range<usize>, groups: Range<usize>, lines: &mut Vec<*const u8>) {
        let has_low_bits = !self.low_bits.is_empty();
        for panel in rows.start / LANES..rows.end.div_ceil(LANES) {
            let block = |group: usize| panel * self.num_blocks + group * BLOCKS;
            let blocks = block(groups.start)..block(groups.end);
            let values = (blocks.start * LANES * BLOCK..blocks.end * LANES * BLOCK).step_by(LINE);
            lines.extend(values.map(|at| self.values.as_ptr().cast::<u8>().wrapping_add(at)));
            if has_low_bits {
                let dwords = (blocks.start * 2 * LANES..blocks.end * 2 * LANES).step_by(LANES);
                lines.extend(dwords.map(|at| self.low_bits.as_ptr().wrapping_add(at).cast()));
            }
        }
    }
}

/// Weights that the instructions of `U` can unpack into half a panel, whose 16 lanes are every other 16 values of what is
/// handed over.
pub(super) trait PanelSource<U>: Lines {
    /// Groups of a panel: as many as leave room in the first-level cache for the activations and sums that they meet. The
    /// more there are, the fewer times the sums come and go.
    const GROUPS: usize;

    /// The scales of up to 16 rows to `[blocks, 16 lanes and 16 others]`.
    ///
    /// # Safety
    /// As [`Panel::begin`]; `to` has all blocks, but for the others of the last.
    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]);

    /// The pairs of one group of up to 16 rows to `[4 blocks, 16 pairs, 16 lanes and 16 others]`, as bits.
    ///
    /// # Safety
    /// As [`Panel::fill`]; `to` has the blocks, but for the others of the last pair.
    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]);
}
