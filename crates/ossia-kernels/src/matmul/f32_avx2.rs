//! f32 products with AVX2 and FMA: weights are decoded in registers and never stored.

use std::arch::x86_64::*;
use std::ops::Range;

use super::f32_pack::{BLOCK, Corner, F32Rows};
use crate::mxfp4::tables;
use crate::weight::{Format, MatrixView};

/// Registers that hold a block of 32.
const PARTS: usize = 4;
/// Weight rows per register tile.
const TILE_ROWS: usize = 4;
/// Tokens per register tile.
const TILE_TOKENS: usize = 2;

/// Whether this path reads the format.
pub(super) fn takes(format: Format<'_>) -> bool {
    !matches!(format, Format::Bf16Transposed(_) | Format::Int8(_))
}

/// As [`super::multiply`].
///
/// # Safety
/// AVX2 and FMA; `rows` within the weight; `x` packed for it.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let cols = weight.cols;
    // SAFETY: the bytes of a view fill its shape, which is what each source asks for.
    unsafe {
        match weight.format {
            Format::F32(bytes) => product(DenseF32(bytes.as_ptr(), cols), rows, x, out),
            Format::Bf16(bytes) => product(DenseBf16(bytes.as_ptr(), cols), rows, x, out),
            Format::Mxfp4 { blocks, scales } => product(
                Mxfp4 { blocks: blocks.as_ptr(), scales: scales.as_ptr(), num_blocks: cols / BLOCK },
                rows,
                x,
                out,
            ),
            Format::Bf16Transposed(_) | Format::Int8(_) => unreachable!("not taken"),
        }
    }
}

/// Weights that decode a block of 32, eight values at a time.
trait Source: Copy {
    /// What decodes the parts of one block.
    type Block: Copy;
    /// Values per row.
    fn cols(self) -> usize;
    /// # Safety
    /// AVX2 is there, `row` and the whole `block` are in range.
    unsafe fn block(self, row: usize, block: usize) -> Self::Block;
    /// # Safety
    /// AVX2 is there; `part` is under [`PARTS`].
    unsafe fn part(block: Self::Block, part: usize) -> __m256;
    /// Copies the partial block to `padded`, which is zero, and makes a block of it.
    ///
    /// # Safety
    /// As [`Source::block`]; the block lives as long as `padded`.
    unsafe fn tail(self, row: usize, padded: &mut [u8; 4 * BLOCK]) -> Self::Block;
}

#[derive(Clone, Copy)]
struct Mxfp4 {
    blocks: *const u8,
    scales: *const u8,
    num_blocks: usize,
}

impl Source for Mxfp4 {
    type Block = (__m256i, __m256);

    #[inline(always)]
    fn cols(self) -> usize {
        self.num_blocks * BLOCK
    }

    #[inline(always)]
    unsafe fn block(self, row: usize, block: usize) -> Self::Block {
        let at = row * self.num_blocks + block;
        // SAFETY: block `at` is 16 bytes at 16 * at with its scale at `at`; the table has a row for every
        // byte, its first eight values are the positive ones.
        unsafe {
            let codes = _mm_loadu_si128(self.blocks.add(16 * at).cast());
            let values = &tables::F32.0[usize::from(*self.scales.add(at))];
            (_mm256_broadcastsi128_si256(codes), _mm256_load_ps(values.as_ptr()))
        }
    }

    #[inline(always)]
    unsafe fn part((codes, magnitudes): Self::Block, part: usize) -> __m256 {
        let shift = 8 * part as i32;
        // SAFETY: AVX2 is there.
        unsafe {
            let shifts = _mm256_add_epi32(_mm256_set_epi32(4, 4, 4, 4, 0, 0, 0, 0), _mm256_set1_epi32(shift));
            let codes = _mm256_srlv_epi32(codes, shifts);
            // The look-up sees three bits; the fourth is the sign.
            let magnitude = _mm256_permutevar8x32_ps(magnitudes, codes);
            let sign = _mm256_and_si256(_mm256_slli_epi32::<28>(codes), _mm256_set1_epi32(i32::MIN));
            _mm256_or_ps(magnitude, _mm256_castsi256_ps(sign))
        }
    }

    #[inline(always)]
    unsafe fn tail(self, row: usize, _padded: &mut [u8; 4 * BLOCK]) -> Self::Block {
        // SAFETY: never called, rows are whole blocks; block 0 would be in range.
        unsafe { self.block(row, 0) }
    }
}

/// Row-major bf16: first byte, values per row.
#[derive(Clone, Copy)]
struct DenseBf16(*const u8, usize);

impl Source for DenseBf16 {
    type Block = *const u8;

    #[inline(always)]
    fn cols(self) -> usize {
        self.1
    }

    #[inline(always)]
    unsafe fn block(self, row: usize, block: usize) -> Self::Block {
        self.0.wrapping_add(2 * (row * self.1 + block * BLOCK))
    }

    #[inline(always)]
    unsafe fn part(block: Self::Block, part: usize) -> __m256 {
        // SAFETY: a block has 32 values of two bytes.
        unsafe {
            let bits = _mm_loadu_si128(block.add(16 * part).cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
        }
    }

    #[inline(always)]
    unsafe fn tail(self, row: usize, padded: &mut [u8; 4 * BLOCK]) -> Self::Block {
        let tail_len = self.1 % BLOCK;
        let from = self.0.wrapping_add(2 * ((row + 1) * self.1 - tail_len));
        // SAFETY: the last `tail_len` values of the row, less than the buffer.
        unsafe { std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), 2 * tail_len) };
        padded.as_ptr()
    }
}

/// Row-major f32: first byte, values per row.
#[derive(Clone, Copy)]
struct DenseF32(*const u8, usize);

impl Source for DenseF32 {
    type Block = *const u8;

    #[inline(always)]
    fn cols(self) -> usize {
        self.1
    }

    #[inline(always)]
    unsafe fn block(self, row: usize, block: usize) -> Self::Block {
        self.0.wrapping_add(4 * (row * self.1 + block * BLOCK))
    }

    #[inline(always)]
    unsafe fn part(block: Self::Block, part: usize) -> __m256 {
        // SAFETY: a block has 32 values of four bytes; the load takes any alignment.
        unsafe { _mm256_loadu_ps(block.add(32 * part).cast()) }
    }

    #[inline(always)]
    unsafe fn tail(self, row: usize, padded: &mut [u8; 4 * BLOCK]) -> Self::Block {
        let tail_len = self.1 % BLOCK;
        let from = self.0.wrapping_add(4 * ((row + 1) * self.1 - tail_len));
        // SAFETY: the last `tail_len` values of the row, less than the buffer.
        unsafe { std::ptr::copy_nonoverlapping(from, padded.as_mut_ptr(), 4 * tail_len) };
        padded.as_ptr()
    }
}

/// All rows with all tokens, in register tiles of 4 x 2 and smaller ones at the edges.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let (width, tokens) = (rows.len(), x.num_tokens());
    let mut r = 0;
    while r < width {
        let many_rows = width - r >= TILE_ROWS;
        let mut t = 0;
        while t < tokens {
            let many_tokens = tokens - t >= TILE_TOKENS;
            let corner = Corner { first_row: rows.start, width, r, t };
            // SAFETY: the tile lies within rows and tokens by the choice of its size.
            unsafe {
                match (many_rows, many_tokens) {
                    (true, true) => tile::<S, TILE_ROWS, TILE_TOKENS>(source, corner, x, out),
                    (true, false) => tile::<S, TILE_ROWS, 1>(source, corner, x, out),
                    (false, true) => tile::<S, 1, TILE_TOKENS>(source, corner, x, out),
                    (false, false) => tile::<S, 1, 1>(source, corner, x, out),
                }
            }
            t += if many_tokens { TILE_TOKENS } else { 1 };
        }
        r += if many_rows { TILE_ROWS } else { 1 };
    }
}

/// `R` rows with `T` tokens. Each sum is one register, fed eight values after the other: the order is the
/// same for every `R` and `T`.
///
/// # Safety
/// As [`multiply`]; the tile is within rows and tokens.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<S: Source, const R: usize, const T: usize>(
    source: S,
    corner: Corner,
    x: &F32Rows,
    out: &mut [f32],
) {
    let row = corner.first_row + corner.r;
    let tokens: [*const f32; T] = std::array::from_fn(|t| x.row(corner.t + t).as_ptr());
    let mut sums = [[_mm256_setzero_ps(); T]; R];
    let whole = source.cols() / BLOCK;
    for block in 0..whole {
        // SAFETY: rows and blocks are in range; a packed row has 32 values for each block.
        unsafe {
            let x = tokens.map(|p| p.add(block * BLOCK));
            for (r, sums) in sums.iter_mut().enumerate() {
                accumulate::<S, T>(sums, source.block(row + r, block), x);
            }
        }
    }
    if !source.cols().is_multiple_of(BLOCK) {
        // SAFETY: as above; packed rows are padded to whole blocks.
        unsafe {
            let x = tokens.map(|p| p.add(whole * BLOCK));
            for (r, sums) in sums.iter_mut().enumerate() {
                let mut padded = [0; 4 * BLOCK];
                accumulate::<S, T>(sums, source.tail(row + r, &mut padded), x);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            out[(corner.t + t) * corner.width + corner.r + r] = horizontal_sum(*sum);
        }
    }
}

/// # Safety
/// AVX2 and FMA; `x` point to 32 values each.
#[inline(always)]
unsafe fn accumulate<S: Source, const T: usize>(sums: &mut [__m256; T], block: S::Block, x: [*const f32; T]) {
    for part in 0..PARTS {
        // SAFETY: the caller's promise.
        unsafe {
            let w = S::part(block, part);
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = _mm256_fmadd_ps(w, _mm256_loadu_ps(x.add(8 * part)), *sum);
            }
        }
    }
}

/// The eight lanes in a halving tree.
#[target_feature(enable = "avx2")]
fn horizontal_sum(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}
