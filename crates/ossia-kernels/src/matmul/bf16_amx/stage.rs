//! Weights as bf16 tiles in a buffer that stays in the first-level cache.

use std::arch::asm;
use std::arch::x86_64::*;

use super::{BLOCK, GROUP, PARTS, SIDE};
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES};
use crate::cpu::transpose_16x16;
use crate::mxfp4::tables;

/// Up to 16 rows of a matrix, the rows of a tile: `first`, `first + spacing` and so on, `count` of them.
#[derive(Clone, Copy)]
pub(super) struct TileRows {
    pub(super) first: usize,
    pub(super) spacing: usize,
    pub(super) count: usize,
}

impl TileRows {
    /// `count` rows that follow each other.
    pub(super) fn adjacent(first: usize, count: usize) -> Self {
        Self { first, spacing: 1, count }
    }
}

/// A weight matrix that can be laid out as tiles of 16 rows x 32 values, four to a group.
pub(super) trait Source: Copy {
    /// Whether rows should lie apart, where there is a choice.
    const IS_SPREAD: bool = false;

    /// Itself, after a look at the rows that are about to be taken.
    ///
    /// # Safety
    /// AVX-512 F and BW; rows in range.
    unsafe fn at_rows(self, _row: usize, _num_rows: usize) -> Self {
        self
    }

    /// Stages group `group` of the rows as four tiles from `to` on. What lies past the rows or columns is written as
    /// zero.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ, VL; rows and group in range; the rows adjacent unless the source is spread; `to` has four
    /// tiles, on a cache line.
    unsafe fn stage(self, rows: TileRows, group: usize, to: *mut u8);

    /// Part `part` of four of staging a whole group of 16 rows.
    ///
    /// # Safety
    /// As [`Source::stage`]; the group is among the [`Source::num_whole_groups`] and all 16 rows are there.
    unsafe fn stage_part(self, rows: TileRows, group: usize, part: usize, to: *mut u8);

    /// Where the tiles of rows from `row` on lie, if the matrix as stored is a run of tiles: their first
    /// byte and the bytes from one row to the next. Only whole groups of whole tiles may be read there.
    fn direct(self, _row: usize) -> Option<(*const u8, usize)> {
        None
    }

    /// Groups that lie wholly within the columns, and that [`Source::stage_part`] can take.
    fn num_whole_groups(self) -> usize;

    /// Asks the cache for a share of the rows from `row` on, if there are so many and they are going to be staged: as many
    /// bytes as they have in one block, so that asking with each block gets all, in the order in which they lie.
    fn prefetch_share(self, _row: usize, _num_rows: usize, _block: usize) {}

    /// Asks the first-level cache for what [`Source::stage_part`] will read some groups later.
    fn prefetch_part(self, _rows: TileRows, _group: usize, _part: usize) {}
}

/// MXFP4 in checkpoint layout.
///
/// A block of a row is 16 bytes, a lane of a register: two tiles of a group have the low codes of all lanes' first and last
/// eight bytes, two the high ones. So each lane is looked up in a table of its own, which has the block's scale in it
/// (see [`decode`]).
#[derive(Clone, Copy)]
pub(super) struct Mxfp4 {
    blocks: *const u8,
    scales: *const u8,
    num_blocks: usize,
    num_rows: usize,
    /// Whether [`Values::of_scales`] takes every scale of the pass.
    is_plain: bool,
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
            is_plain: false,
        }
    }
}

/// Rows of MXFP4 that a part of staging a group takes.
const ROWS_PER_PART: usize = SIDE / PARTS;

/// How many groups, a cache line each, a row of MXFP4 is asked for ahead.
const GROUPS_AHEAD: usize = 8;

/// The largest scale that [`Values::of_scales`] takes; the smallest is 1.
const MAX_SCALE: u8 = 252;

/// The bf16 numbers that the 16 codes stand for, by lane: their lower and their upper bytes.
#[derive(Clone, Copy)]
struct Values {
    lower: __m512i,
    upper: __m512i,
}

impl Values {
    /// Those of four blocks with the scales in each four bytes of `scales`. What is subnormal in bf16 comes out as zero, as
    /// the tile unit takes it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of_scales(scales: __m512i) -> Self {
        /// Where both say so from the first, and what the third says.
        const AND_OR: i32 = 0xea;
        let lanes = _mm512_set_epi64(
            0x0303_0303_0303_0303,
            0x0303_0303_0303_0303,
            0x0202_0202_0202_0202,
            0x0202_0202_0202_0202,
            0x0101_0101_0101_0101,
            0x0101_0101_0101_0101,
            0,
            0,
        );
        let scales = _mm512_shuffle_epi8(scales, lanes);
        // 0, 0.5, 1, 1.5, 2, 3, 4 and 6: exponents beside that of the scale, and where the significand is 1.5.
        let exponents = by_code([0, 0xff, 0, 0, 1, 1, 2, 2, 0, 0xff, 0, 0, 1, 1, 2, 2]);
        let halves = by_code([0, 0, 0, 0x40, 0, 0x40, 0, 0x40, 0, 0, 0, 0x40, 0, 0x40, 0, 0x40]);
        let signs = by_code([0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]);
        let exponents = _mm512_maskz_add_epi8(0xfefe_fefe_fefe_fefe, scales, exponents);
        let lower = _mm512_slli_epi16::<7>(exponents);
        let upper = _mm512_srli_epi16::<1>(exponents);
        Self {
            lower: _mm512_ternarylogic_epi32::<AND_OR>(lower, _mm512_set1_epi8(i8::MIN), halves),
            upper: _mm512_ternarylogic_epi32::<AND_OR>(upper, _mm512_set1_epi8(i8::MAX), signs),
        }
    }

    /// Those of up to four blocks with any scales.
    #[target_feature(enable = "avx512f")]
    fn of_any_scales(scales: &[u8]) -> Self {
        let [mut lower, mut upper] = [[0u8; 64]; 2];
        for (lane, scale) in scales.iter().enumerate() {
            for (code, bits) in tables::BF16.0[usize::from(*scale)].iter().take(16).enumerate() {
                [lower[16 * lane + code], upper[16 * lane + code]] = bits.to_le_bytes();
            }
        }
        // SAFETY: 64 bytes each.
        unsafe {
            Self {
                lower: _mm512_loadu_si512(lower.as_ptr().cast()),
                upper: _mm512_loadu_si512(upper.as_ptr().cast()),
            }
        }
    }
}

/// The same 16 bytes in each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn by_code(bytes: [u8; 16]) -> __m512i {
    // SAFETY: 16 bytes.
    _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// One row of a group as rows of four tiles.
///
/// Bytes are looked up, not words: what looks words up (`vpermw`) takes both ports that 512-bit instructions have, what
/// looks up bytes within lanes (`vpshufb`) one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn decode(codes: __m512i, values: Values) -> [__m512i; PARTS] {
    let low_code = _mm512_set1_epi8(0xf);
    let even = _mm512_and_si512(codes, low_code);
    let odd = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low_code);
    let bytes = |codes| (_mm512_shuffle_epi8(values.lower, codes), _mm512_shuffle_epi8(values.upper, codes));
    let ((even_lower, even_upper), (odd_lower, odd_upper)) = (bytes(even), bytes(odd));
    [
        _mm512_unpacklo_epi8(even_lower, even_upper),
        _mm512_unpackhi_epi8(even_lower, even_upper),
        _mm512_unpacklo_epi8(odd_lower, odd_upper),
        _mm512_unpackhi_epi8(odd_lower, odd_upper),
    ]
}

/// Writes a row of each of four tiles.
///
/// # Safety
/// AVX-512 F; `to` is the row's place in the first tile, on a cache line.
#[inline(always)]
unsafe fn store_row(tiles: [__m512i; PARTS], to: *mut u8) {
    for (part, values) in tiles.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { _mm512_store_si512(to.add(part * TILE_BYTES).cast(), values) };
    }
}

impl Source for Mxfp4 {
    const IS_SPREAD: bool = true;

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn at_rows(mut self, row: usize, num_rows: usize) -> Self {
        let len = num_rows * self.num_blocks;
        let scales = self.scales.wrapping_add(row * self.num_blocks);
        let mut largest = _mm512_setzero_si512();
        for at in (0..len).step_by(64) {
            let mask = u64::MAX >> (64 - (len - at).min(64));
            // SAFETY: the mask keeps to the scales of the rows.
            let scales = unsafe { _mm512_maskz_loadu_epi8(mask, scales.add(at).cast()) };
            // One less: 0 becomes the largest.
            let scales = _mm512_maskz_sub_epi8(mask, scales, _mm512_set1_epi8(1));
            largest = _mm512_max_epu8(largest, scales);
        }
        let bound = _mm512_set1_epi8((MAX_SCALE - 1).cast_signed());
        self.is_plain = _mm512_cmpgt_epu8_mask(largest, bound) == 0;
        self
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn stage(self, rows: TileRows, group: usize, to: *mut u8) {
        let count = PARTS.min(self.num_blocks - group * PARTS);
        for r in 0..SIDE {
            // SAFETY: block `at` is 16 bytes at 16 * at with its scale at `at`, `count` of them are in the group; `to`
            // has 16 rows of 64 bytes in each tile, on cache lines.
            unsafe {
                let to = to.add(r * TILE_ROW_BYTES);
                if r >= rows.count {
                    store_row([_mm512_setzero_si512(); PARTS], to);
                    continue;
                }
                let at = (rows.first + r * rows.spacing) * self.num_blocks + group * PARTS;
                let mask = u64::MAX >> (64 - 16 * count);
                let codes = _mm512_maskz_loadu_epi8(mask, self.blocks.add(16 * at).cast());
                let values = match self.is_plain {
                    true => {
                        let scales = _mm_maskz_loadu_epi8((1 << count) - 1, self.scales.add(at).cast());
                        Values::of_scales(_mm512_broadcastd_epi32(scales))
                    }
                    false => Values::of_any_scales(std::slice::from_raw_parts(self.scales.add(at), count)),
                };
                store_row(decode(codes, values), to);
            }
        }
    }

    #[inline(always)]
    unsafe fn stage_part(self, rows: TileRows, group: usize, part: usize, to: *mut u8) {
        let at = (rows.first + part * ROWS_PER_PART * rows.spacing) * self.num_blocks + group * PARTS;
        let stride = rows.spacing * self.num_blocks;
        let codes = opaque(self.blocks.wrapping_add(16 * at));
        let scales = opaque(self.scales.wrapping_add(at));
        let to = to.wrapping_add(part * ROWS_PER_PART * TILE_ROW_BYTES);
        for r in 0..ROWS_PER_PART {
            // SAFETY: four blocks are 64 bytes with four bytes of scales; `to` has 16 rows of 64 bytes in each tile.
            unsafe {
                let codes = _mm512_loadu_si512(codes.add(r * 16 * stride).cast());
                let values = Values::of_scales(broadcast(scales.add(r * stride)));
                store_row(decode(codes, values), to.add(r * TILE_ROW_BYTES));
            }
        }
    }

    fn num_whole_groups(self) -> usize {
        if self.is_plain { self.num_blocks / PARTS } else { 0 }
    }

    #[inline(always)]
    fn prefetch_share(self, row: usize, num_rows: usize, block: usize) {
        if row + num_rows <= self.num_rows {
            let first = row * self.num_blocks + block * num_rows;
            prefetch_lines(self.blocks.wrapping_add(16 * first), 16 * num_rows);
            prefetch_lines(self.scales.wrapping_add(first), num_rows);
        }
    }

    #[inline(always)]
    fn prefetch_part(self, rows: TileRows, group: usize, part: usize) {
        for r in part * ROWS_PER_PART..(part + 1) * ROWS_PER_PART {
            let at = (rows.first + r * rows.spacing) * self.num_blocks + (group + GROUPS_AHEAD) * PARTS;
            // SAFETY: a prefetch may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.blocks.wrapping_add(16 * at).cast()) };
        }
    }
}

/// bf16, one row after the other. Tile `s` of a group is its block `s`.
#[derive(Clone, Copy)]
pub(super) struct RowMajor {
    values: *const u8,
    cols: usize,
}

impl RowMajor {
    /// The bytes of a matrix with `cols` columns.
    pub(super) fn new(bytes: &[u8], cols: usize) -> Self {
        Self { values: bytes.as_ptr(), cols }
    }
}

impl Source for RowMajor {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn stage(self, rows: TileRows, group: usize, to: *mut u8) {
        for part in 0..PARTS {
            let col = group * GROUP + part * BLOCK;
            for r in 0..SIDE {
                let mask = if r < rows.count { block_mask(self.cols, col) } else { 0 };
                let at = self.values.wrapping_add(2 * ((rows.first + r) * self.cols + col));
                // SAFETY: the mask keeps the load within its row; a tile has 16 rows of 64 bytes.
                unsafe {
                    let values = _mm512_maskz_loadu_epi16(mask, at.cast());
                    _mm512_store_si512(to.add(part * TILE_BYTES + r * TILE_ROW_BYTES).cast(), values);
                }
            }
        }
    }

    /// Not called: whole groups are read where they lie.
    #[inline(always)]
    unsafe fn stage_part(self, _rows: TileRows, _group: usize, _part: usize, _to: *mut u8) {}

    fn direct(self, row: usize) -> Option<(*const u8, usize)> {
        Some((self.values.wrapping_add(2 * row * self.cols), 2 * self.cols))
    }

    fn num_whole_groups(self) -> usize {
        self.cols / GROUP
    }
}

/// bf16, one column after the other. Tile `s` of a group is its block `s`.
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

    /// One tile: 32 columns from `col` on.
    ///
    /// # Safety
    /// As [`Source::stage`]; `to` is a tile.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn stage_block(self, rows: TileRows, col: usize, to: *mut u8) {
        // SAFETY: rows are in range by the caller, columns are checked; a tile has 16 rows of 64 bytes.
        unsafe {
            let mut pairs = [_mm512_setzero_si512(); 16];
            for (p, pair) in pairs.iter_mut().enumerate() {
                let even = self.column(rows.first, rows.count, col + 2 * p);
                let odd = self.column(rows.first, rows.count, col + 2 * p + 1);
                *pair = _mm512_or_si512(even, _mm512_slli_epi32::<16>(odd));
            }
            for (r, values) in transpose_16x16(pairs).into_iter().enumerate() {
                _mm512_store_si512(to.add(r * TILE_ROW_BYTES).cast(), values);
            }
        }
    }
}

impl Source for Transposed {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn stage(self, rows: TileRows, group: usize, to: *mut u8) {
        for part in 0..PARTS {
            // SAFETY: the caller's promise.
            unsafe { self.stage_block(rows, group * GROUP + part * BLOCK, to.add(part * TILE_BYTES)) };
        }
    }

    #[inline(always)]
    unsafe fn stage_part(self, rows: TileRows, group: usize, part: usize, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.stage_block(rows, group * GROUP + part * BLOCK, to.add(part * TILE_BYTES)) };
    }

    fn num_whole_groups(self) -> usize {
        self.cols / GROUP
    }
}

/// Which of the 32 values from column `col` on lie within `cols` columns.
#[inline(always)]
fn block_mask(cols: usize, col: usize) -> u32 {
    match cols.saturating_sub(col) {
        len if len < BLOCK => (1 << len) - 1,
        _ => u32::MAX,
    }
}

/// The same pointer, of which the compiler no longer knows where it came from. Left to itself it keeps one for each row
/// and source from one round of a loop to the next: more than there are registers.
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through it")]
#[inline(always)]
fn opaque(mut at: *const u8) -> *const u8 {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) at, options(pure, nomem, nostack, preserves_flags)) };
    at
}

/// The four bytes at `at`, sixteen times. Left to itself the compiler takes a shuffle for it, on the unit that look-ups
/// need.
///
/// # Safety
/// AVX-512 F; four readable bytes.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(at: *const u8) -> __m512i {
    let bytes: __m512i;
    // SAFETY: the caller's promise.
    unsafe {
        asm!(
            "vpbroadcastd {0}, dword ptr [{1}]",
            out(zmm_reg) bytes, in(reg) at,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    bytes
}

/// Prefetches `len` bytes.
#[inline(always)]
fn prefetch_lines(first: *const u8, len: usize) {
    for at in (0..len).step_by(64) {
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(at).cast()) };
    }
}
