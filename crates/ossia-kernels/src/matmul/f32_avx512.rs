//! f32 products with AVX-512: weights are decoded in registers and never stored.

use std::arch::x86_64::*;
use std::ops::Range;

use super::f32_pack::{BLOCK, Corner, F32Rows};
use crate::mxfp4::tables;
use crate::weight::{Format, MatrixView};

/// Weight rows and tokens per register tile: 16 sums, so that each decoded weight is used four times.
const TILE: usize = 4;

/// Whether this path reads the format.
pub(super) fn takes(format: Format<'_>) -> bool {
    !matches!(format, Format::Bf16Transposed(_))
}

/// As [`super::multiply`].
///
/// # Safety
/// AVX-512 F, BW, DQ, VL; `rows` within the weight; `x` packed for it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn multiply(weight: MatrixView<'_>, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let cols = weight.cols;
    // SAFETY: the bytes of a view fill its shape, which is what each source asks for.
    unsafe {
        match weight.format {
            Format::F32(bytes) => product(Dense::<f32>::new(bytes, cols), rows, x, out),
            Format::Bf16(bytes) => product(Dense::<u16>::new(bytes, cols), rows, x, out),
            Format::Mxfp4 { blocks, scales } => product(
                Mxfp4 { blocks: blocks.as_ptr(), scales: scales.as_ptr(), num_blocks: cols / BLOCK },
                rows,
                x,
                out,
            ),
            Format::Bf16Transposed(_) => unreachable!("not taken"),
        }
    }
}

/// Weights that decode a block of 32 into two registers.
trait Source: Copy {
    /// Blocks without padding.
    fn num_whole_blocks(self) -> usize;
    /// Values in the last, partial block, or 0.
    fn tail_len(self) -> usize;
    /// # Safety
    /// AVX-512 is there, `row` and `block` are in range.
    unsafe fn block(self, row: usize, block: usize) -> [__m512; 2];
    /// The partial block, padded with zeros.
    ///
    /// # Safety
    /// As [`Source::block`]; `tail_len` is not 0.
    unsafe fn tail(self, row: usize) -> [__m512; 2];
}

#[derive(Clone, Copy)]
struct Mxfp4 {
    blocks: *const u8,
    scales: *const u8,
    num_blocks: usize,
}

impl Source for Mxfp4 {
    #[inline(always)]
    fn num_whole_blocks(self) -> usize {
        self.num_blocks
    }

    #[inline(always)]
    fn tail_len(self) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn block(self, row: usize, block: usize) -> [__m512; 2] {
        let at = row * self.num_blocks + block;
        // SAFETY: block `at` is 16 bytes at 16 * at with its scale at `at`; the table has a row for every
        // byte. The intrinsics need what the caller promises.
        unsafe {
            let codes = _mm512_broadcast_i32x4(_mm_loadu_si128(self.blocks.add(16 * at).cast::<__m128i>()));
            let scale = usize::from(*self.scales.add(at));
            let values = _mm512_load_ps(tables::F32.0[scale].as_ptr());
            let first = _mm512_set_epi32(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
            let second = _mm512_add_epi32(first, _mm512_set1_epi32(16));
            [
                _mm512_permutexvar_ps(_mm512_srlv_epi32(codes, first), values),
                _mm512_permutexvar_ps(_mm512_srlv_epi32(codes, second), values),
            ]
        }
    }

    #[inline(always)]
    unsafe fn tail(self, _row: usize) -> [__m512; 2] {
        // SAFETY: AVX-512 is there.
        unsafe { [_mm512_setzero_ps(); 2] }
    }
}

/// A row-major matrix of `f32` or, as `u16` bits, of bf16.
#[derive(Clone, Copy)]
struct Dense<T> {
    values: *const T,
    cols: usize,
}

impl<T> Dense<T> {
    fn new(bytes: &[u8], cols: usize) -> Self {
        Self { values: bytes.as_ptr().cast(), cols }
    }
}

impl Dense<u16> {
    /// # Safety
    /// AVX-512; 16 values at `at`, of any alignment.
    #[inline(always)]
    unsafe fn load16(at: *const u16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { widen(_mm256_loadu_si256(at.cast())) }
    }
}

/// bf16 bits to f32.
///
/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn widen(bits: __m256i) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits))) }
}

impl Source for Dense<u16> {
    #[inline(always)]
    fn num_whole_blocks(self) -> usize {
        self.cols / BLOCK
    }

    #[inline(always)]
    fn tail_len(self) -> usize {
        self.cols % BLOCK
    }

    #[inline(always)]
    unsafe fn block(self, row: usize, block: usize) -> [__m512; 2] {
        // SAFETY: a whole block in range has 32 values.
        unsafe {
            let at = self.values.wrapping_add(row * self.cols + block * BLOCK);
            [Self::load16(at), Self::load16(at.wrapping_add(16))]
        }
    }

    #[inline(always)]
    unsafe fn tail(self, row: usize) -> [__m512; 2] {
        let at = self.values.wrapping_add((row + 1) * self.cols - self.tail_len());
        let mask = (1u32 << self.tail_len()) - 1;
        // SAFETY: the mask keeps the load within the row.
        unsafe {
            let all = _mm512_maskz_loadu_epi16(mask, at.cast());
            [widen(_mm512_castsi512_si256(all)), widen(_mm512_extracti64x4_epi64::<1>(all))]
        }
    }
}

impl Source for Dense<f32> {
    #[inline(always)]
    fn num_whole_blocks(self) -> usize {
        self.cols / BLOCK
    }

    #[inline(always)]
    fn tail_len(self) -> usize {
        self.cols % BLOCK
    }

    #[inline(always)]
    unsafe fn block(self, row: usize, block: usize) -> [__m512; 2] {
        // SAFETY: a whole block in range has 32 values; the loads take any alignment.
        unsafe {
            let at = self.values.wrapping_add(row * self.cols + block * BLOCK);
            [_mm512_loadu_ps(at), _mm512_loadu_ps(at.wrapping_add(16))]
        }
    }

    #[inline(always)]
    unsafe fn tail(self, row: usize) -> [__m512; 2] {
        let at = self.values.wrapping_add((row + 1) * self.cols - self.tail_len());
        let mask = (1u32 << self.tail_len()) - 1;
        // SAFETY: the masks keep both loads within the row.
        unsafe {
            [
                _mm512_maskz_loadu_ps(mask as u16, at),
                _mm512_maskz_loadu_ps((mask >> 16) as u16, at.wrapping_add(16)),
            ]
        }
    }
}

/// All rows with all tokens, in register tiles of 4 x 4 and smaller ones at the edges.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let (width, tokens) = (rows.len(), x.num_tokens());
    let mut r = 0;
    while r < width {
        let many_rows = width - r >= TILE;
        let mut t = 0;
        while t < tokens {
            let many_tokens = tokens - t >= TILE;
            let corner = Corner { first_row: rows.start, width, r, t };
            // SAFETY: the tile lies within rows and tokens by the choice of its size.
            unsafe {
                match (many_rows, many_tokens) {
                    (true, true) => tile::<S, TILE, TILE>(source, corner, x, out),
                    (true, false) => tile::<S, TILE, 1>(source, corner, x, out),
                    (false, true) => tile::<S, 1, TILE>(source, corner, x, out),
                    (false, false) => tile::<S, 1, 1>(source, corner, x, out),
                }
            }
            t += if many_tokens { TILE } else { 1 };
        }
        r += if many_rows { TILE } else { 1 };
    }
}

/// `R` rows with `T` tokens. Each sum is one register, fed block after block: the order is the same for
/// every `R` and `T`.
///
/// # Safety
/// As [`multiply`]; the tile is within rows and tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<S: Source, const R: usize, const T: usize>(
    source: S,
    corner: Corner,
    x: &F32Rows,
    out: &mut [f32],
) {
    let row = corner.first_row + corner.r;
    let tokens: [*const f32; T] = std::array::from_fn(|t| x.row(corner.t + t).as_ptr());
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    let whole = source.num_whole_blocks();
    for block in 0..whole {
        // SAFETY: rows and blocks are in range; a packed row has 32 values for each block.
        unsafe {
            let x = tokens.map(|p| load_block(p, block));
            for (r, sums) in sums.iter_mut().enumerate() {
                accumulate(sums, source.block(row + r, block), &x);
            }
        }
    }
    if source.tail_len() > 0 {
        // SAFETY: as above; packed rows are padded to whole blocks.
        unsafe {
            let x = tokens.map(|p| load_block(p, whole));
            for (r, sums) in sums.iter_mut().enumerate() {
                accumulate(sums, source.tail(row + r), &x);
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
/// AVX-512; `block` is within the packed row.
#[inline(always)]
unsafe fn load_block(row: *const f32, block: usize) -> [__m512; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        let at = row.add(block * BLOCK);
        [_mm512_loadu_ps(at), _mm512_loadu_ps(at.add(16))]
    }
}

/// # Safety
/// AVX-512.
#[inline(always)]
unsafe fn accumulate<const T: usize>(sums: &mut [__m512; T], w: [__m512; 2], x: &[[__m512; 2]; T]) {
    for (sum, x) in sums.iter_mut().zip(x) {
        // SAFETY: the caller's promise.
        *sum = unsafe { _mm512_fmadd_ps(w[1], x[1], _mm512_fmadd_ps(w[0], x[0], *sum)) };
    }
}

/// The 16 lanes in a halving tree, spelled out so that it is the same everywhere.
#[target_feature(enable = "avx512f,avx512dq")]
fn horizontal_sum(v: __m512) -> f32 {
    let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}
