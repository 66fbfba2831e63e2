//! The tile products of a round, in parts, so that vectors have work beside them.

use std::ops::Range;

use super::{DEPTH, DIM_TILES, KEY_TILES, SIDE, STEPS};
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES, tile_dot, tile_load, tile_store, tile_zero};

/// The logits of one block and the values of another, and how far they are. What has no steps has no products.
///
/// Sums are in tiles 0 to 3, what belongs to the rows is in 4, keys or values in 5 to 7.
pub(super) struct Products {
    pub(super) head_dim: usize,
    /// The next part.
    pub(super) next: usize,
    pub(super) logit_steps: Range<usize>,
    /// Tiles of the block's queries, one after the other.
    pub(super) queries: *const u8,
    /// Tiles of the chunk's keys, whose rows are `key_stride` bytes apart.
    pub(super) keys: [*const u8; KEY_TILES],
    pub(super) key_stride: usize,
    /// Where the block's logits go.
    pub(super) logits: *mut u8,
    pub(super) value_steps: Range<usize>,
    /// Tiles of the block's powers, one for each step.
    pub(super) powers: *const u8,
    /// Tiles of the chunk's values, `[STEPS, head_dim / 16]`.
    pub(super) values: *const u8,
    /// Where the block's values go, `[head_dim, 16]`.
    pub(super) added: *mut u8,
}

impl Products {
    /// Parts of the logits, and as many of the values.
    #[inline(always)]
    fn num_parts(&self) -> usize {
        self.head_dim / DEPTH
    }

    /// Runs what is left.
    ///
    /// # Safety
    /// AMX, with full tiles configured; the pointers point to what they should.
    #[inline(always)]
    pub(super) unsafe fn finish(&mut self) {
        while self.next < 2 * self.num_parts() {
            // SAFETY: the condition above.
            unsafe { self.run_next() };
        }
    }

    /// Runs the next part, if there is one.
    ///
    /// # Safety
    /// As for [`Self::finish`].
    #[inline(always)]
    pub(super) unsafe fn run_next(&mut self) {
        let (next, num_parts) = (self.next, self.num_parts());
        self.next += 1;
        // SAFETY: the condition above.
        unsafe {
            if next < num_parts {
                self.run_logits(next);
            } else if next < 2 * num_parts {
                self.run_values(next - num_parts);
            }
        }
    }

    /// The block's queries with the chunk's keys over 32 dimensions.
    ///
    /// # Safety
    /// As for [`Self::finish`].
    #[inline(always)]
    unsafe fn run_logits(&mut self, part: usize) {
        let (steps, stride) = (&self.logit_steps, self.key_stride);
        if steps.is_empty() {
            return;
        }
        // SAFETY: the condition above; a chunk's keys are four tiles high.
        unsafe {
            if part == 0 {
                zero_sums();
            }
            let [a, b, c, d] = self.keys.map(|keys| keys.wrapping_add(part * TILE_ROW_BYTES));
            tile_load!(4, self.queries.add(part * TILE_BYTES), TILE_ROW_BYTES);
            if steps.contains(&0) {
                tile_load!(5, a, stride);
                tile_dot!(0, 5, 4);
                tile_load!(6, b, stride);
                tile_dot!(1, 6, 4);
            }
            if steps.contains(&1) {
                tile_load!(7, c, stride);
                tile_dot!(2, 7, 4);
                tile_load!(5, d, stride);
                tile_dot!(3, 5, 4);
            }
            if part + 1 == self.num_parts() {
                store_sums(self.logits);
            }
        }
    }

    /// 64 dimensions of the chunk's values with the block's powers over 32 keys.
    ///
    /// # Safety
    /// As for [`Self::finish`].
    #[inline(always)]
    unsafe fn run_values(&mut self, part: usize) {
        if self.value_steps.is_empty() {
            return;
        }
        let (dim_tile, step) = (part / STEPS * DIM_TILES, part % STEPS);
        // SAFETY: the condition above.
        unsafe {
            if step == 0 {
                zero_sums();
            }
            if self.value_steps.contains(&step) {
                let values = self.values.add((step * self.head_dim / SIDE + dim_tile) * TILE_BYTES);
                tile_load!(4, self.powers.add(step * TILE_BYTES), TILE_ROW_BYTES);
                tile_load!(5, values, TILE_ROW_BYTES);
                tile_dot!(0, 5, 4);
                tile_load!(6, values.add(TILE_BYTES), TILE_ROW_BYTES);
                tile_dot!(1, 6, 4);
                tile_load!(7, values.add(2 * TILE_BYTES), TILE_ROW_BYTES);
                tile_dot!(2, 7, 4);
                tile_load!(5, values.add(3 * TILE_BYTES), TILE_ROW_BYTES);
                tile_dot!(3, 5, 4);
            }
            if step + 1 == STEPS {
                store_sums(self.added.add(dim_tile * TILE_BYTES));
            }
        }
    }
}

/// Zeroes the four tiles of sums.
///
/// # Safety
/// AMX, with tiles configured.
#[inline(always)]
unsafe fn zero_sums() {
    // SAFETY: the condition above.
    unsafe {
        tile_zero!(0);
        tile_zero!(1);
        tile_zero!(2);
        tile_zero!(3);
    }
}

/// Stores the four tiles of sums one after the other.
///
/// # Safety
/// As for [`zero_sums`], with room for four tiles.
#[inline(always)]
unsafe fn store_sums(to: *mut u8) {
    // SAFETY: the condition above.
    unsafe {
        tile_store!(0, to, TILE_ROW_BYTES);
        tile_store!(1, to.add(TILE_BYTES), TILE_ROW_BYTES);
        tile_store!(2, to.add(2 * TILE_BYTES), TILE_ROW_BYTES);
        tile_store!(3, to.add(3 * TILE_BYTES), TILE_ROW_BYTES);
    }
}
