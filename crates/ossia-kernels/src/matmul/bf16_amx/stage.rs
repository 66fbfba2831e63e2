//! Weights as bf16 tiles in a buffer that stays in the first-level cache.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP};
use crate::cpu::amx::TILE_ROW_BYTES;
use crate::matmul::transpose::transpose_16x16;
use crate::mxfp4::tables;

/// A weight matrix that can be laid out as tiles of 16 rows x 32 values.
pub(super) trait Source: Copy {
    /// Writes block `block` of rows `row .. row + num_rows` to the tile at `to`. `num_rows` is at most 16;
    /// whatever lies past the rows or columns of the matrix is written as zero.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ, VL; rows and block in range; `to` is a tile, on a cache line.
    unsafe fn stage(self, row: usize, num_rows: usize, block: usize, to: *mut u8);

    /// Where the tiles of rows from `row` on lie, if the matrix as stored is a run of tiles: their first
    /// byte and the bytes from one row to the next. Only whole blocks of 16 rows may be read there.
    fn direct(self, row: usize) -> Option<(*const u8, usize)>;

    /// Blocks that lie wholly within the columns.
    fn num_whole_blocks(self) -> usize;

    /// Asks the cache for a share of the rows from `row` on, if there are so many: as many bytes as they
    /// have in one block, so that asking with each block gets all, in the order in which they lie.
    fn prefetch_share(self, row: usize, num_rows: usize, block: usize);

    /// Asks the cache for one block of the rows, if there is such a block.
    fn prefetch_block(self, row: usize, num_rows: usize, block: usize);
}

/// MXFP4 in checkpoint layout.
#[derive(Clone, Copy)]
pub(super) struct Mxfp4 {
    blocks: *const u8,
    scales: *const u8,
    num_blocks: usize,
    num_rows: usize,
}

impl Mxfp4 {
    /// Blocks and scales of a matrix with `cols` columns.
    pub(super) fn new(blocks: &[u8], scales: &[u8], cols: usize) -> Self {
        let num_blocks = cols / BLOCK;
        Self {
            blocks: blocks.as_ptr(),
            scales: scales.as_ptr(),
            num_blocks,
            num_rows: scales.len() / num_blocks.max(1),
        }
    }
}

impl Source for Mxfp4 {
    /// Four 16-bit codes per word: the block repeats four times through the register, each time shifted
    /// by one code more, and one permutation of the scale's table turns all 32 codes into bf16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn stage(self, row: usize, num_rows: usize, block: usize, to: *mut u8) {
        // SAFETY: block `at` is 16 bytes at 16 * at with its scale at `at`; the table has a row for every
        // byte; `to` has 16 rows of 64 bytes, on cache lines.
        unsafe {
            let shifts = _mm512_set_epi64(
                0x000c_000c_000c_000c,
                0x000c_000c_000c_000c,
                0x0008_0008_0008_0008,
                0x0008_0008_0008_0008,
                0x0004_0004_0004_0004,
                0x0004_0004_0004_0004,
                0,
                0,
            );
            let first = row * self.num_blocks + block;
            let stage_row = |r: usize| {
                let at = first + r * self.num_blocks;
                let words = _mm_loadu_si128(self.blocks.add(16 * at).cast());
                let table = &tables::BF16.0[usize::from(*self.scales.add(at))];
                let codes = _mm512_srlv_epi16(_mm512_broadcast_i32x4(words), shifts);
                let values = _mm512_permutexvar_epi16(codes, _mm512_load_si512(table.as_ptr().cast()));
                _mm512_store_si512(to.add(r * TILE_ROW_BYTES).cast(), values);
            };
            if num_rows == GROUP {
                for r in (0..GROUP).step_by(4) {
                    stage_row(r);
                    stage_row(r + 1);
                    stage_row(r + 2);
                    stage_row(r + 3);
                }
            } else {
                (0..num_rows).for_each(stage_row);
                zero_rows(num_rows, to);
            }
        }
    }

    fn direct(self, _row: usize) -> Option<(*const u8, usize)> {
        None
    }

    fn num_whole_blocks(self) -> usize {
        self.num_blocks
    }

    #[inline(always)]
    fn prefetch_share(self, row: usize, num_rows: usize, block: usize) {
        if row + num_rows <= self.num_rows {
            let first = row * self.num_blocks + block * num_rows;
            prefetch_lines(self.blocks.wrapping_add(16 * first), 16 * num_rows);
            prefetch_lines(self.scales.wrapping_add(first), num_rows);
        }
    }

    /// A cache line holds four blocks, so every fourth block asks.
    #[inline(always)]
    fn prefetch_block(self, row: usize, num_rows: usize, block: usize) {
        if block < self.num_blocks && block.is_multiple_of(4) {
            let first = self.blocks.wrapping_add(16 * (row * self.num_blocks + block));
            prefetch_rows(first, 16 * self.num_blocks, num_rows);
        }
    }
}

/// bf16, one row after the other.
#[derive(Clone, Copy)]
pub(super) struct RowMajor {
    values: *const u8,
    cols: usize,
    num_rows: usize,
}

impl RowMajor {
    /// The bytes of a matrix with `cols` columns.
    pub(super) fn new(bytes: &[u8], cols: usize) -> Self {
        Self { values: bytes.as_ptr(), cols, num_rows: bytes.len() / (2 * cols).max(1) }
    }
}

impl Source for RowMajor {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn stage(self, row: usize, num_rows: usize, block: usize, to: *mut u8) {
        let mask = block_mask(self.cols, block);
        // SAFETY: the mask keeps each load within its row; `to` has 16 rows of 64 bytes.
        unsafe {
            for r in 0..num_rows {
                let at = self.values.wrapping_add(2 * ((row + r) * self.cols + block * BLOCK));
                let values = _mm512_maskz_loadu_epi16(mask, at.cast());
                _mm512_store_si512(to.add(r * TILE_ROW_BYTES).cast(), values);
            }
            zero_rows(num_rows, to);
        }
    }

    fn direct(self, row: usize) -> Option<(*const u8, usize)> {
        Some((self.values.wrapping_add(2 * row * self.cols), 2 * self.cols))
    }

    fn num_whole_blocks(self) -> usize {
        self.cols / BLOCK
    }

    #[inline(always)]
    fn prefetch_share(self, row: usize, num_rows: usize, block: usize) {
        if row + num_rows <= self.num_rows {
            let first = row * self.cols + block * num_rows * BLOCK;
            prefetch_lines(self.values.wrapping_add(2 * first), 2 * num_rows * BLOCK);
        }
    }

    #[inline(always)]
    fn prefetch_block(self, row: usize, num_rows: usize, block: usize) {
        if block * BLOCK < self.cols {
            let first = self.values.wrapping_add(2 * (row * self.cols + block * BLOCK));
            prefetch_rows(first, 2 * self.cols, num_rows);
        }
    }
}

/// bf16, one column after the other.
#[derive(Clone, Copy)]
pub(super) struct Transposed {
    values: *const u8,
    rows: usize,
    cols: usize,
}

impl Transposed {
    /// The bytes of a `[rows, cols]` matrix stored as `[cols, rows]`.
    pub(super) fn new(bytes: &[u8], rows: usize, cols: usize) -> Self {
        Self { values: bytes.as_ptr(), rows, cols }
    }

    /// `num_rows` values of column `col` from `row` on, widened to 32 bits; zeros past the last column.
    ///
    /// # Safety
    /// AVX-512 F, BW, VL; rows in range.
    #[inline(always)]
    unsafe fn column(self, row: usize, num_rows: usize, col: usize) -> __m512i {
        let num_rows = if col < self.cols { num_rows } else { 0 };
        let mask = ((1u32 << num_rows) - 1) as u16;
        let at = self.values.wrapping_add(2 * (col * self.rows + row));
        // SAFETY: the mask keeps the load within the column.
        unsafe { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, at.cast())) }
    }
}

impl Source for Transposed {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn stage(self, row: usize, num_rows: usize, block: usize, to: *mut u8) {
        // SAFETY: rows are in range by the caller, columns are checked; `to` has 16 rows of 64 bytes.
        unsafe {
            let mut pairs = [_mm512_setzero_si512(); 16];
            for (p, pair) in pairs.iter_mut().enumerate() {
                let col = block * BLOCK + 2 * p;
                let even = self.column(row, num_rows, col);
                let odd = self.column(row, num_rows, col + 1);
                *pair = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
            }
            for (r, values) in transpose_16x16(pairs).into_iter().enumerate() {
                _mm512_store_si512(to.add(r * TILE_ROW_BYTES).cast(), values);
            }
        }
    }

    fn direct(self, _row: usize) -> Option<(*const u8, usize)> {
        None
    }

    fn num_whole_blocks(self) -> usize {
        self.cols / BLOCK
    }

    fn prefetch_share(self, _row: usize, _num_rows: usize, _block: usize) {}

    fn prefetch_block(self, _row: usize, _num_rows: usize, _block: usize) {}
}

/// The values of block `block` that lie within `cols` columns.
#[inline(always)]
fn block_mask(cols: usize, block: usize) -> u32 {
    match cols - block * BLOCK {
        len if len < BLOCK => (1 << len) - 1,
        _ => u32::MAX,
    }
}

/// # Safety
/// AVX-512 F; `tile` is a tile, on a cache line.
#[inline(always)]
unsafe fn zero_rows(from: usize, tile: *mut u8) {
    for r in from..GROUP {
        // SAFETY: a tile has 16 rows of 64 bytes.
        unsafe { _mm512_store_si512(tile.add(r * TILE_ROW_BYTES).cast(), _mm512_setzero_si512()) };
    }
}

/// Prefetches `len` bytes.
#[inline(always)]
fn prefetch_lines(first: *const u8, len: usize) {
    for at in (0..len).step_by(64) {
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(at).cast()) };
    }
}

/// Prefetches a line of each of `num_rows` rows.
#[inline(always)]
fn prefetch_rows(first: *const u8, stride: usize, num_rows: usize) {
    for r in 0..num_rows {
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(r * stride).cast()) };
    }
}
