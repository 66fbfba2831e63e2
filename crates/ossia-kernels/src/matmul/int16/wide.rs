//! Many tokens: 32 rows are unpacked once, then multiplied with up to twelve tokens at a time.

use std::ops::Range;

use super::panel::{Panel, PanelSource, ROWS};
use super::{BLOCK, GROUP, Int16Rows, Unit};
use crate::cpu::Scratch;

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
    for first in (0..width).step_by(ROWS) {
        let count = ROWS.min(width - first);
        parts.fill(0.0);
        // SAFETY: the caller's promise; the rows are in range.
        unsafe { panel.begin(weight, rows.start + first..rows.start + first + count) };
        for group in (0..x.num_groups()).step_by(S::GROUPS) {
            let groups = group..x.num_groups().min(group + S::GROUPS);
            // SAFETY: the caller's promise; rows and groups are in range, and so are the parts of each tile.
            unsafe {
                panel.fill(weight, groups.clone());
                for tokens in x.tiles() {
                    let parts = &mut parts[tokens.start * PARTS * ROWS..][..tokens.len() * PARTS * ROWS];
                    U::add_tile(&Tile::new(&panel, groups.clone(), x, tokens), parts);
                }
            }
        }
        for (t, parts) in parts.chunks_exact(PARTS * ROWS).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { U::merge(parts, &mut out[t * width + first..][..count]) };
        }
    }
}

/// Some blocks of a panel and a tile of tokens.
pub(super) struct Tile<'a> {
    pub(super) panel: &'a Panel,
    pub(super) num_blocks: usize,
    /// Where the panel's blocks lie in the rows; a multiple of the number of parts.
    pub(super) first_block: usize,
    pub(super) num_tokens: usize,
    /// `[blocks of the rows, 16 pairs, tokens]`.
    pub(super) pairs: *const i32,
    /// `[blocks of the rows, tokens]`.
    pub(super) half_steps: *const f32,
}

impl<'a> Tile<'a> {
    /// A panel that holds `groups`, and `tokens`, which are one of the tiles of `x`.
    fn new(panel: &'a Panel, groups: Range<usize>, x: &Int16Rows, tokens: Range<usize>) -> Self {
        let (pairs, half_steps) = x.tile(tokens.start);
        Self {
            panel,
            num_blocks: groups.len() * PARTS,
            first_block: groups.start * PARTS,
            num_tokens: tokens.len(),
            pairs,
            half_steps,
        }
    }
}
