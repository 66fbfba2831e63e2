//! Many tokens: 32 rows are unpacked once, then multiplied with some tokens at a time.

use std::ops::Range;
use std::slice::Chunks;

use super::activations::PackedRow;
use super::panel::{Panel, PanelSource, ROWS};
use super::{BLOCK, GROUP, Int16Rows, Unit};
use crate::cpu::{Scratch, prefetch};

/// Partial sums of a row, by block.
pub(super) const PARTS: usize = GROUP / BLOCK;

/// As [`super::multiply`].
///
/// # Safety
/// As [`super::multiply`], with the instructions of `U`.
pub(super) unsafe fn multiply<U: Unit, S: PanelSource<U>>(
    weight: S,
    rows: Range<usize>,
    x: &Int16Rows,
    out: &mut [f32],
) {
    let width = rows.len();
    let mut panel = Panel::new(S::GROUPS, x.num_groups());
    let mut parts = Scratch::new(x.num_tokens() * PARTS * ROWS);
    let num_tiles = x.tiles().map(|(tokens, len)| tokens.len() / len).sum();
    let mut next = Vec::new();
    for first in (0..width).step_by(ROWS) {
        let count = ROWS.min(width - first);
        let below = rows.start + first + ROWS;
        parts.fill(0.0);
        // SAFETY: the caller's promise; the rows are in range.
        unsafe { panel.begin(weight, rows.start + first..rows.start + first + count) };
        for group in (0..x.num_groups()).step_by(S::GROUPS) {
            let groups = group..x.num_groups().min(group + S::GROUPS);
            next.clear();
            weight.add_lines(below..below + ROWS, groups.clone(), &mut next);
            // SAFETY: the caller's promise; rows and groups are in range, and so are the parts of the tiles.
            unsafe {
                panel.fill(weight, groups.clone());
                let (mut lines, share) = (next.as_slice(), next.len().div_ceil(num_tiles).max(1));
                for (tokens, len) in x.tiles() {
                    let parts = &mut parts[tokens.start * PARTS * ROWS..][..tokens.len() * PARTS * ROWS];
                    let blocks = groups.start * PARTS..groups.end * PARTS;
                    let (own, others) = lines.split_at(lines.len().min(tokens.len() / len * share));
                    lines = others;
                    let shares = own.chunks(share);
                    U::add_tiles(Tiles { panel: &panel, blocks, x, tokens, len, shares }, parts);
                }
            }
        }
        for (t, parts) in parts.chunks_exact(PARTS * ROWS).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { U::merge(parts, &mut out[t * width + first..][..count]) };
        }
    }
}

/// Some blocks of a panel and tiles of tokens, all of one size.
pub(super) struct Tiles<'a> {
    pub(super) panel: &'a Panel,
    /// The panel's blocks, by their place in the rows; the first is a multiple of the number of parts.
    pub(super) blocks: Range<usize>,
    /// Tokens of a tile.
    pub(super) len: usize,
    x: &'a Int16Rows,
    tokens: Range<usize>,
    /// Cache lines that the next panel will be filled from, some for each tile.
    shares: Chunks<'a, *const u8>,
}

impl Tiles<'_> {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.tokens.len() / self.len
    }

    /// Tile `at`: `[blocks of the rows, 16 pairs, tokens]` and half steps, `[blocks of the rows, tokens]`.
    pub(super) fn tile(&self, at: usize) -> PackedRow {
        self.x.tile(self.tokens.start + at * self.len)
    }

    /// Asks memory for a tile's share of what the next panel will be filled from. All at once would wait for each other, and
    /// whatever else is asked for would wait for them.
    #[inline(always)]
    pub(super) fn prefetch_share(&mut self) {
        self.shares.next().into_iter().flatten().for_each(|line| prefetch(*line));
    }
}
