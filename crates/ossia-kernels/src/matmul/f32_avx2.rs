//! f32 products with AVX2 and FMA: weights are decoded in registers and never stored.

use std::arch::x86_64::*;
use std::ops::Range;

use super::f32_pack::{BLOCK, F32Rows};
use crate::cpu::Scratch;
use crate::mxfp4::tables;
use crate::weight::{Format, MatrixView};

/// Registers that hold a block of 32.
const PARTS: usize = 4;
/// Lanes of a register.
const LANES: usize = 8;
/// Most tokens of a register tile.
const TOKENS: usize = 4;
/// Blocks of columns of which a full tile of tokens meets all rows of a task before the next ones: its activations stay in
/// the first-level cache, the rows in the second.
const BLOCKS_IN_CACHE: usize = 16;

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

/// All rows with all tokens.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx2,fma")]
unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let width = rows.len();
    let mut sums = Scratch::new(width * TOKENS * LANES);
    for first in (0..x.num_tokens()).step_by(TOKENS) {
        let tokens = first..x.num_tokens().min(first + TOKENS);
        let sums = &mut sums[..width * tokens.len() * LANES];
        // SAFETY: the caller's promise; the tokens are there.
        unsafe {
            match tokens.len() {
                1 => add_all::<S, 4, 1>(source, rows.start, tokens.clone(), x, sums),
                2 => add_all::<S, 4, 2>(source, rows.start, tokens.clone(), x, sums),
                3 => add_all::<S, 3, 3>(source, rows.start, tokens.clone(), x, sums),
                _ => add_all::<S, 3, TOKENS>(source, rows.start, tokens.clone(), x, sums),
            }
        }
        for (r, sums) in sums.chunks_exact(tokens.len() * LANES).enumerate() {
            for (t, sums) in tokens.clone().zip(sums.chunks_exact(LANES)) {
                // SAFETY: a sum is a register long.
                out[t * width + r] = horizontal_sum(unsafe { _mm256_loadu_ps(sums.as_ptr()) });
            }
        }
    }
}

/// The sums of rows from `first_row` with `T` tokens, `[rows, T, 8 lanes]`, in register tiles of `R` rows.
///
/// # Safety
/// As [`multiply`]; the rows of `sums` and `T` tokens are there.
#[target_feature(enable = "avx2,fma")]
unsafe fn add_all<S: Source, const R: usize, const T: usize>(
    source: S,
    first_row: usize,
    tokens: Range<usize>,
    x: &F32Rows,
    sums: &mut [f32],
) {
    let tokens: [*const f32; T] = std::array::from_fn(|t| x.row(tokens.start + t).as_ptr());
    let num_blocks = source.cols().div_ceil(BLOCK);
    // Fewer tokens read rows from end to end, as they lie: for decoding these are all there are.
    let step = if T == TOKENS { BLOCKS_IN_CACHE } else { num_blocks.max(1) };
    sums.fill(0.0);
    for first in (0..num_blocks).step_by(step) {
        let blocks = first..num_blocks.min(first + step);
        for (group, sums) in sums.chunks_mut(R * T * LANES).enumerate() {
            let row = first_row + group * R;
            // SAFETY: the caller's promise.
            unsafe {
                if sums.len() == R * T * LANES {
                    tile::<S, R, T>(source, row, blocks.clone(), &tokens, sums);
                } else {
                    for (r, sums) in sums.chunks_exact_mut(T * LANES).enumerate() {
                        tile::<S, 1, T>(source, row + r, blocks.clone(), &tokens, sums);
                    }
                }
            }
        }
    }
}

/// Adds some blocks of `R` rows with `T` tokens to `sums`, `[R, T, 8 lanes]`. Each sum is one register, fed eight values
/// after the other: the order is the same for every `R` and `T`.
///
/// # Safety
/// As [`multiply`]; rows, blocks and tokens are there.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<S: Source, const R: usize, const T: usize>(
    source: S,
    row: usize,
    blocks: Range<usize>,
    tokens: &[*const f32; T],
    sums: &mut [f32],
) {
    assert_eq!(sums.len(), R * T * LANES);
    let place = |r: usize, t: usize| (r * T + t) * LANES;
    let mut added = [[_mm256_setzero_ps(); T]; R];
    for (r, added) in added.iter_mut().enumerate() {
        for (t, added) in added.iter_mut().enumerate() {
            // SAFETY: a sum is a register long.
            *added = unsafe { _mm256_loadu_ps(sums[place(r, t)..].as_ptr()) };
        }
    }
    let whole = source.cols() / BLOCK;
    for block in blocks.start..blocks.end.min(whole) {
        // SAFETY: rows and blocks are in range; a packed row has 32 values for each block.
        unsafe {
            let rows = std::array::from_fn(|r| source.block(row + r, block));
            accumulate::<S, R, T>(&mut added, rows, tokens.map(|x| x.add(block * BLOCK)));
        }
    }
    if blocks.end > whole {
        let mut padded = [[0; 4 * BLOCK]; R];
        // SAFETY: as above; packed rows are padded to whole blocks.
        unsafe {
            let mut padded = padded.iter_mut();
            let rows = std::array::from_fn(|r| match padded.next() {
                Some(padded) => source.tail(row + r, padded),
                None => unreachable!("one for each row"),
            });
            accumulate::<S, R, T>(&mut added, rows, tokens.map(|x| x.add(whole * BLOCK)));
        }
    }
    for (r, added) in added.iter().enumerate() {
        for (t, added) in added.iter().enumerate() {
            // SAFETY: a sum is a register long.
            unsafe { _mm256_storeu_ps(sums[place(r, t)..].as_mut_ptr(), *added) };
        }
    }
}

/// Adds the products of a block of each row with each token. Tokens come one after another, so that the sums leave
/// registers for weights and activations.
///
/// # Safety
/// AVX2 and FMA; `x` point to 32 values each.
#[inline(always)]
unsafe fn accumulate<S: Source, const R: usize, const T: usize>(
    sums: &mut [[__m256; T]; R],
    rows: [S::Block; R],
    x: [*const f32; T],
) {
    for part in 0..PARTS {
        // SAFETY: the caller's promise.
        unsafe {
            let mut w = [_mm256_setzero_ps(); R];
            for r in 0..R {
                w[r] = S::part(rows[r], part);
            }
            for t in 0..T {
                let x = _mm256_loadu_ps(x[t].add(LANES * part));
                for r in 0..R {
                    sums[r][t] = _mm256_fmadd_ps(w[r], x, sums[r][t]);
                }
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
