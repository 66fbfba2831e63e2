//! Runs of tile products over consecutive blocks of `k`.
//!
//! Register use: sums in tmm0-3, then weights, then activations. All functions need configured tiles.

use crate::cpu::amx::{tile_dot, tile_load, tile_store, tile_zero};

/// Tiles that follow each other in memory: the first one, the bytes between its rows, and the bytes from
/// one block to the next.
#[derive(Clone, Copy)]
pub(super) struct TileRun {
    pub(super) base: *const u8,
    pub(super) stride: usize,
    pub(super) step: usize,
}

impl TileRun {
    /// The tile of a block.
    #[inline(always)]
    pub(super) fn tile(self, block: usize) -> *const u8 {
        self.base.wrapping_add(block * self.step)
    }
}

/// 32 rows x 32 tokens of sums in memory: the first one and the bytes from one row to the next.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    pub(super) base: *mut f32,
    pub(super) stride: usize,
}

impl Sums {
    /// The tile `rows` rows down and `cols` tokens to the right.
    #[inline(always)]
    fn tile(self, rows: usize, cols: usize) -> *mut f32 {
        self.base.wrapping_byte_add(rows * self.stride).wrapping_add(cols)
    }
}

/// Adds products of 32 rows with 32 tokens over `num_blocks` blocks to the sums; `fresh` starts from zero.
/// `meanwhile` runs once per block: other work for the vector units while the tile unit is busy.
///
/// # Safety
/// Tiles are configured full; both runs and the sums are readable, the sums writable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn dot_2x2(
    a: [TileRun; 2],
    b: [TileRun; 2],
    sums: Sums,
    num_blocks: usize,
    fresh: bool,
    meanwhile: &mut impl Meanwhile,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if fresh {
            tile_zero!(0);
            tile_zero!(1);
            tile_zero!(2);
            tile_zero!(3);
        } else {
            tile_load!(0, sums.tile(0, 0), sums.stride);
            tile_load!(1, sums.tile(0, 16), sums.stride);
            tile_load!(2, sums.tile(16, 0), sums.stride);
            tile_load!(3, sums.tile(16, 16), sums.stride);
        }
        for block in 0..num_blocks {
            tile_load!(4, a[0].tile(block), a[0].stride);
            tile_load!(6, b[0].tile(block), b[0].stride);
            tile_dot!(0, 4, 6);
            tile_load!(7, b[1].tile(block), b[1].stride);
            tile_dot!(1, 4, 7);
            tile_load!(5, a[1].tile(block), a[1].stride);
            tile_dot!(2, 5, 6);
            tile_dot!(3, 5, 7);
            meanwhile.step();
        }
        tile_store!(0, sums.tile(0, 0), sums.stride);
        tile_store!(1, sums.tile(0, 16), sums.stride);
        tile_store!(2, sums.tile(16, 0), sums.stride);
        tile_store!(3, sums.tile(16, 16), sums.stride);
    }
}

/// As [`dot_2x2`] for 32 rows with 16 tokens.
///
/// # Safety
/// As [`dot_2x2`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn dot_2x1(
    a: [TileRun; 2],
    b: TileRun,
    sums: Sums,
    num_blocks: usize,
    fresh: bool,
    meanwhile: &mut impl Meanwhile,
) {
    // SAFETY: the caller's promise.
    unsafe {
        if fresh {
            tile_zero!(0);
            tile_zero!(2);
        } else {
            tile_load!(0, sums.tile(0, 0), sums.stride);
            tile_load!(2, sums.tile(16, 0), sums.stride);
        }
        for block in 0..num_blocks {
            tile_load!(4, a[0].tile(block), a[0].stride);
            tile_load!(6, b.tile(block), b.stride);
            tile_dot!(0, 4, 6);
            tile_load!(5, a[1].tile(block), a[1].stride);
            tile_dot!(2, 5, 6);
            meanwhile.step();
        }
        tile_store!(0, sums.tile(0, 0), sums.stride);
        tile_store!(2, sums.tile(16, 0), sums.stride);
    }
}

/// Work that is done between tile products.
pub(super) trait Meanwhile {
    /// Does a small part of it.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ, VL.
    unsafe fn step(&mut self);
}
