//! One pass: 32 weight rows with one to three tiles of tokens over all of `k`, sums in registers throughout.
//!
//! Weights are staged anew for each pass, a group ahead of the one that is multiplied, into a buffer that stays in
//! the first-level cache. That costs less than keeping them: unpacking them is work for the vector units while the
//! tile unit multiplies, and storing them, or sums between chunks of `k`, to the second-level cache costs ten cycles a
//! line.
//!
//! With one tile of tokens what limits a pass is memory, and how well prefetchers follow: they know some thirty streams
//! of addresses, one to a page, and every row is one. Weights that are tiles as they lie are read there, 16 rows at a
//! time. MXFP4 rows are shorter than a page: [`run_spread`] takes 16 that lie apart, and then each one's neighbour.

use std::arch::x86_64::*;

use super::pack::TiledRows;
use super::stage::{Source, TileRows};
use super::{GROUP, PARTS, SIDE};
use crate::cpu::Scratch;
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES, tile_dot, tile_load, tile_store, tile_zero};
use crate::cpu::transpose_16x16;

/// Weight rows of a pass: two tiles.
pub(super) const ROWS: usize = 2 * SIDE;

/// Most tiles of tokens of a pass.
pub(super) const MAX_TILES: usize = 3;

/// Tile registers that are as wide as a tile of tokens: the sums of rows 0 to 15 (by tile of tokens) in 0 to 2, those
/// of rows 16 to 31 in 3 to 5, tokens in 7. Weights are in 6.
pub(super) const TOKEN_WIDE: [usize; 7] = [0, 1, 2, 3, 4, 5, 7];

/// Bytes of 16 rows of a staged group.
const HALF_BYTES: usize = PARTS * TILE_BYTES;
/// Bytes of staged weights: a group that is multiplied and one that is staged.
pub(super) const STAGED_BYTES: usize = 2 * 2 * HALF_BYTES;
/// Bytes of the sums of a pass, tile by tile as the registers have them.
pub(super) const SUMS_BYTES: usize = 2 * MAX_TILES * TILE_BYTES;

/// Rows `row .. row + count` of a weight with tokens.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a, S> {
    pub(super) source: S,
    pub(super) row: usize,
    pub(super) count: usize,
    pub(super) x: &'a TiledRows,
}

impl<S: Source> Pass<'_, S> {
    /// Sums over all of `k` with `TILES` tiles of tokens from tile `tile` on, one to three. `prefetches` asks memory for
    /// the rows that follow.
    ///
    /// # Safety
    /// Tiles are configured with [`TOKEN_WIDE`]; the rows are within the source, the tokens within `x`; the buffers
    /// are as long as they should be.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn run<const TILES: usize>(
        &self,
        tile: usize,
        prefetches: bool,
        staged: &mut Scratch,
        sums: &mut Scratch,
    ) {
        let sums: *mut u8 = sums.as_mut_ptr().cast();
        let stride = self.x.stride();
        // SAFETY: the caller's promise.
        unsafe {
            tile_zero!(0);
            tile_zero!(1);
            tile_zero!(2);
            tile_zero!(3);
            tile_zero!(4);
            tile_zero!(5);
            let direct = if self.count == ROWS { self.source.direct(self.row) } else { None };
            let mut first_staged = 0;
            if let Some((base, row_stride)) = direct {
                first_staged = self.source.num_whole_groups();
                self.run_direct::<TILES>(tile, base, row_stride, first_staged);
            }
            if first_staged < self.x.num_groups() {
                self.run_staged::<TILES>(tile, first_staged, prefetches, staged);
            }
            tile_store!(0, sums, stride);
            tile_store!(3, sums.add(MAX_TILES * TILE_BYTES), stride);
            if TILES > 1 {
                tile_store!(1, sums.add(TILE_BYTES), stride);
                tile_store!(4, sums.add((MAX_TILES + 1) * TILE_BYTES), stride);
            }
            if TILES > 2 {
                tile_store!(2, sums.add(2 * TILE_BYTES), stride);
                tile_store!(5, sums.add((MAX_TILES + 2) * TILE_BYTES), stride);
            }
        }
    }

    /// The first `num_groups` groups, read where they lie: rows of 64 bytes from `base` on, `stride` apart.
    ///
    /// # Safety
    /// As [`Pass::run`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run_direct<const TILES: usize>(
        &self,
        tile: usize,
        base: *const u8,
        stride: usize,
        num_groups: usize,
    ) {
        let num_blocks = num_groups * PARTS;
        let upper = |block: usize| base.wrapping_add(block * TILE_ROW_BYTES);
        let lower = |block: usize| upper(block).wrapping_add(SIDE * stride);
        let mut tokens = Tokens::<TILES>::new(self.x, tile, 0);
        // SAFETY: the caller's promise.
        unsafe {
            if TILES > 1 {
                for block in 0..num_blocks {
                    tokens.multiply_upper(upper(block), stride);
                    tokens.multiply_lower(lower(block), stride);
                    tokens.advance();
                }
                return;
            }
            for block in 0..num_blocks {
                tokens.multiply_upper(upper(block), stride);
                tokens.advance();
            }
            tokens = Tokens::new(self.x, tile, 0);
            for block in 0..num_blocks {
                tokens.load();
                tokens.multiply_lower(lower(block), stride);
                tokens.advance();
            }
        }
    }

    /// The groups from `first` on: those that lie whole are staged while the one before is multiplied.
    ///
    /// # Safety
    /// As [`Pass::run`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run_staged<const TILES: usize>(
        &self,
        tile: usize,
        first: usize,
        prefetches: bool,
        staged: &mut Scratch,
    ) {
        let (source, num_groups) = (self.source, self.x.num_groups());
        let [upper, lower] = self.halves();
        let whole = if self.count == ROWS { source.num_whole_groups() } else { 0 };
        let staged: *mut u8 = staged.as_mut_ptr().cast();
        let buffer = |group: usize| staged.wrapping_add(group % 2 * 2 * HALF_BYTES);
        let mut tokens = Tokens::<TILES>::new(self.x, tile, first * PARTS);
        // SAFETY: each half of a buffer holds four tiles; rows, groups and blocks are in range.
        unsafe {
            self.stage_all(first, first < whole, buffer(first));
            for group in first + 1..whole {
                let (from, to) = (buffer(group + 1), buffer(group));
                for part in 0..PARTS {
                    if prefetches {
                        source.prefetch_share(self.row + ROWS, ROWS, group * PARTS + part);
                    }
                    source.stage_part(upper, group, part, to);
                    tokens.multiply_upper(from.add(part * TILE_BYTES), TILE_ROW_BYTES);
                    source.stage_part(lower, group, part, to.add(HALF_BYTES));
                    tokens.multiply_lower(from.add(HALF_BYTES + part * TILE_BYTES), TILE_ROW_BYTES);
                    tokens.advance();
                }
            }
            for group in whole.max(first + 1)..=num_groups {
                let from = buffer(group + 1);
                if group < num_groups {
                    self.stage_all(group, false, buffer(group));
                }
                for part in 0..PARTS {
                    tokens.multiply_upper(from.add(part * TILE_BYTES), TILE_ROW_BYTES);
                    tokens.multiply_lower(from.add(HALF_BYTES + part * TILE_BYTES), TILE_ROW_BYTES);
                    tokens.advance();
                }
            }
        }
    }

    /// The rows of the two tiles of weights.
    fn halves(&self) -> [TileRows; 2] {
        let upper = self.count.min(SIDE);
        [TileRows::adjacent(self.row, upper), TileRows::adjacent(self.row + upper, self.count - upper)]
    }

    /// Stages all of group `group`, which the source has among its whole ones if `is_whole`.
    ///
    /// # Safety
    /// As [`Source::stage`], with eight tiles at `to`.
    #[inline(always)]
    unsafe fn stage_all(&self, group: usize, is_whole: bool, to: *mut u8) {
        let [upper, lower] = self.halves();
        // SAFETY: the caller's promise.
        unsafe {
            if is_whole {
                for part in 0..PARTS {
                    self.source.stage_part(upper, group, part, to);
                    self.source.stage_part(lower, group, part, to.add(HALF_BYTES));
                }
                return;
            }
            self.source.stage(upper, group, to);
            self.source.stage(lower, group, to.add(HALF_BYTES));
        }
    }

    /// Writes the sums of the tokens from tile `tile` on, `num_tiles` tiles, to columns from `col` on of `out`,
    /// `[num_tokens, width]`.
    ///
    /// # Safety
    /// AVX-512 F; `sums` is as long as it should be.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn scatter(
        &self,
        tile: usize,
        num_tiles: usize,
        sums: &Scratch,
        col: usize,
        out: &mut [f32],
        width: usize,
    ) {
        const TILE_LEN: usize = SIDE * SIDE;
        let x = self.x;
        for at in 0..num_tiles {
            let tokens = (tile + at) * SIDE..x.num_tokens().min((tile + at + 1) * SIDE);
            for (side, first) in (0..self.count).step_by(SIDE).enumerate() {
                let count = SIDE.min(self.count - first);
                let sums = &sums[(side * MAX_TILES + at) * TILE_LEN..][..SIDE * x.width()];
                if x.width() < SIDE {
                    for token in tokens.clone() {
                        let out = &mut out[token * width + col + first..][..count];
                        let sums = sums[token - tokens.start..].iter().step_by(x.width());
                        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = *sum);
                    }
                    continue;
                }
                let mask = u16::MAX >> (SIDE - count);
                // SAFETY: a tile is 16 rows of 64 bytes.
                let rows: [__m512i; SIDE] =
                    std::array::from_fn(|r| unsafe { _mm512_loadu_si512(sums[r * SIDE..].as_ptr().cast()) });
                for (token, values) in tokens.clone().zip(transpose_16x16(rows)) {
                    let out = &mut out[token * width + col + first..][..count];
                    // SAFETY: the mask keeps the store within `out`.
                    unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), mask, values) };
                }
            }
        }
    }
}

/// Sums over all of `k` of 16 rows that lie apart with the only tile of tokens of `x`: `[16, width of the tile]`.
///
/// # Safety
/// As [`Pass::run`]; all 16 rows are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn run_spread<S: Source>(
    source: S,
    rows: TileRows,
    x: &TiledRows,
    staged: &mut Scratch,
    sums: &mut Scratch,
) {
    let (whole, num_groups) = (source.num_whole_groups(), x.num_groups());
    let staged: *mut u8 = staged.as_mut_ptr().cast();
    let buffer = |group: usize| staged.wrapping_add(group % 2 * HALF_BYTES);
    let mut tokens = Tokens::<1>::new(x, 0, 0);
    // SAFETY: half a buffer holds four tiles; rows, groups and blocks are in range.
    unsafe {
        tile_zero!(0);
        for group in 0..=num_groups {
            if group >= whole && group < num_groups {
                source.stage(rows, group, buffer(group));
            }
            for part in 0..PARTS {
                if group < whole {
                    source.prefetch_part(rows, group, part);
                    source.stage_part(rows, group, part, buffer(group));
                }
                if group > 0 {
                    tokens.multiply_upper(buffer(group + 1).add(part * TILE_BYTES), TILE_ROW_BYTES);
                    tokens.advance();
                }
            }
        }
        tile_store!(0, sums.as_mut_ptr(), x.stride());
    }
}

/// Up to three tiles of tokens, block by block.
struct Tokens<const TILES: usize> {
    at: [*const u8; TILES],
    /// Bytes from one row of a tile to the next.
    stride: usize,
    /// Bytes from one block to the next.
    step: usize,
}

impl<const TILES: usize> Tokens<TILES> {
    /// Tile `tile` of tokens and those after, from block `block` on.
    fn new(x: &TiledRows, tile: usize, block: usize) -> Self {
        let at = std::array::from_fn(|at| x.tile(tile + at, block));
        Self { at, stride: x.stride(), step: x.step() }
    }

    /// On to the next block.
    #[inline(always)]
    fn advance(&mut self) {
        self.at = self.at.map(|at| at.wrapping_add(self.step));
    }

    /// Loads the block of the last tile, which [`Tokens::multiply_lower`] takes as loaded.
    ///
    /// # Safety
    /// Tiles are configured; there is such a block.
    #[inline(always)]
    unsafe fn load(&self) {
        // SAFETY: the caller's promise.
        unsafe { tile_load!(7, self.at[TILES - 1], self.stride) };
    }

    /// Adds the products of the block with the tile of weights at `from`, whose rows are `stride` apart, to the sums of
    /// rows 0 to 15. Leaves the block of the last tile loaded.
    ///
    /// # Safety
    /// Tiles are configured; there is such a block; `from` is a tile.
    #[inline(always)]
    unsafe fn multiply_upper(&self, from: *const u8, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            tile_load!(6, from, stride);
            tile_load!(7, self.at[0], self.stride);
            tile_dot!(0, 6, 7);
            if TILES > 1 {
                tile_load!(7, self.at[1], self.stride);
                tile_dot!(1, 6, 7);
            }
            if TILES > 2 {
                tile_load!(7, self.at[2], self.stride);
                tile_dot!(2, 6, 7);
            }
        }
    }

    /// As [`Tokens::multiply_upper`] for rows 16 to 31, tiles in the other order: the last is loaded.
    ///
    /// # Safety
    /// As [`Tokens::multiply_upper`], after it or [`Tokens::load`].
    #[inline(always)]
    unsafe fn multiply_lower(&self, from: *const u8, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            tile_load!(6, from, stride);
            if TILES > 2 {
                tile_dot!(5, 6, 7);
                tile_load!(7, self.at[1], self.stride);
            }
            if TILES > 1 {
                tile_dot!(4, 6, 7);
                tile_load!(7, self.at[0], self.stride);
            }
            tile_dot!(3, 6, 7);
        }
    }
}

const _: () = assert!(GROUP * 2 * ROWS * 2 == STAGED_BYTES);
