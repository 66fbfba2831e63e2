//! f32 products with AVX-512: weights are decoded in registers and never stored.

use std::arch::x86_64::*;
use std::ops::Range;

use super::f32_pack::{BLOCK, Corner, F32Rows};
use crate::mxfp4::tables;
use crate::weight::{Format, MatrixView};

/// Weight rows and tokens of the largest register tile: 24 sums, so that each decoded weight is used six times.
const ROWS: usize = 4;
const TOKENS: usize = 6;
/// Tokens that meet all rows of a task before the next ones: their activations stay in the second-level cache.
const TOKENS_IN_CACHE: usize = 8 * TOKENS;

/// Whether this path reads the format.
pub(super) fn takes(format: Format<'_>) -> bool {
    !matches!(format, Format::Bf16Transposed(_) | Format::Int8(_))
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
            Format::Bf16Transposed(_) | Format::Int8(_) => unreachable!("not taken"),
        }
    }
}

/// Weights that decode half a block of 32 into a register.
trait Source: Copy {
    /// Blocks without padding.
    fn num_whole_blocks(self) -> usize;
    /// Values in the last, partial block, or 0.
    fn tail_len(self) -> usize;
    /// Half `half` (0 or 1) of a block.
    ///
    /// # Safety
    /// AVX-512 is there, `row` and `block` are in range.
    unsafe fn half(self, row: usize, block: usize, half: usize) -> __m512;
    /// As [`Source::half`] of the partial block, padded with zeros.
    ///
    /// # Safety
    /// As [`Source::half`]; `tail_len` is not 0.
    unsafe fn tail_half(self, row: usize, half: usize) -> __m512;
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
    unsafe fn half(self, row: usize, block: usize, half: usize) -> __m512 {
        let at = row * self.num_blocks + block;
        // SAFETY: block `at` is 16 bytes at 16 * at with its scale at `at`; the table has a row for every
        // byte. The intrinsics need what the caller promises.
        unsafe {
            let codes = _mm512_broadcast_i32x4(_mm_loadu_si128(self.blocks.add(16 * at).cast::<__m128i>()));
            let scale = usize::from(*self.scales.add(at));
            let values = _mm512_load_ps(tables::F32.0[scale].as_ptr());
            let shifts = _mm512_set_epi32(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
            let shifts = _mm512_add_epi32(shifts, _mm512_set1_epi32(16 * half as i32));
            _mm512_permutexvar_ps(_mm512_srlv_epi32(codes, shifts), values)
        }
    }

    #[inline(always)]
    unsafe fn tail_half(self, _row: usize, _half: usize) -> __m512 {
        // SAFETY: AVX-512 is there.
        unsafe { _mm512_setzero_ps() }
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
    unsafe fn half(self, row: usize, block: usize, half: usize) -> __m512 {
        let at = row * self.cols + block * BLOCK + 16 * half;
        // SAFETY: a whole block in range has 32 values.
        unsafe { Self::load16(self.values.wrapping_add(at)) }
    }

    #[inline(always)]
    unsafe fn tail_half(self, row: usize, half: usize) -> __m512 {
        let at = (row + 1) * self.cols - self.tail_len() + 16 * half;
        let mask = ((1u32 << self.tail_len()) - 1) >> (16 * half);
        // SAFETY: the mask keeps the load within the row.
        unsafe { widen(_mm256_maskz_loadu_epi16(mask as u16, self.values.wrapping_add(at).cast())) }
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
    unsafe fn half(self, row: usize, block: usize, half: usize) -> __m512 {
        let at = row * self.cols + block * BLOCK + 16 * half;
        // SAFETY: a whole block in range has 32 values; the load takes any alignment.
        unsafe { _mm512_loadu_ps(self.values.wrapping_add(at)) }
    }

    #[inline(always)]
    unsafe fn tail_half(self, row: usize, half: usize) -> __m512 {
        let at = (row + 1) * self.cols - self.tail_len() + 16 * half;
        let mask = ((1u32 << self.tail_len()) - 1) >> (16 * half);
        // SAFETY: the mask keeps the load within the row.
        unsafe { _mm512_maskz_loadu_ps(mask as u16, self.values.wrapping_add(at)) }
    }
}

/// All rows with all tokens, in register tiles of 4 x 6 and smaller ones at the edges.
///
/// # Safety
/// As [`multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &F32Rows, out: &mut [f32]) {
    let width = rows.len();
    for start in (0..x.num_tokens()).step_by(TOKENS_IN_CACHE) {
        let tokens = start..x.num_tokens().min(start + TOKENS_IN_CACHE);
        let mut r = 0;
        while r < width {
            let corner = Corner { first_row: rows.start, width, r, t: 0 };
            // SAFETY: the tiles lie within rows and tokens.
            unsafe {
                if width - r >= ROWS {
                    some_rows::<S, ROWS>(source, corner, tokens.clone(), x, out);
                    r += ROWS;
                } else {
                    some_rows::<S, 1>(source, corner, tokens.clone(), x, out);
                    r += 1;
                }
            }
        }
    }
}

/// `R` rows with `tokens`.
///
/// # Safety
/// As [`multiply`]; rows and tokens are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn some_rows<S: Source, const R: usize>(
    source: S,
    corner: Corner,
    tokens: Range<usize>,
    x: &F32Rows,
    out: &mut [f32],
) {
    let mut t = tokens.start;
    while t < tokens.end {
        let corner = Corner { t, ..corner };
        // SAFETY: the caller's promise, by the choice of the tile's size.
        t += unsafe {
            match tokens.end - t {
                TOKENS.. => tile::<S, R, TOKENS>(source, corner, x, out),
                4.. => tile::<S, R, 4>(source, corner, x, out),
                2.. => tile::<S, R, 2>(source, corner, x, out),
                _ => tile::<S, R, 1>(source, corner, x, out),
            }
        };
    }
}

/// `R` rows with `T` tokens; returns `T`. Each sum is one register, fed block after block: the order is the same
/// for every `R` and `T`.
///
/// # Safety
/// As [`multiply`]; the tile is within rows and tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<S: Source, const R: usize, const T: usize>(
    source: S,
    corner: Corner,
    x: &F32Rows,
    out: &mut [f32],
) -> usize {
    let row = corner.first_row + corner.r;
    let tokens: [*const f32; T] = std::array::from_fn(|t| x.row(corner.t + t).as_ptr());
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    let whole = source.num_whole_blocks();
    for block in 0..whole {
        for half in 0..2 {
            let mut w = [_mm512_setzero_ps(); R];
            // SAFETY: rows and blocks are in range; a packed row has 32 values for each block.
            unsafe {
                for (r, w) in w.iter_mut().enumerate() {
                    *w = source.half(row + r, block, half);
                }
                accumulate(&mut sums, &w, &tokens, block * BLOCK + 16 * half);
            }
        }
    }
    if source.tail_len() > 0 {
        for half in 0..2 {
            let mut w = [_mm512_setzero_ps(); R];
            // SAFETY: as above; packed rows are padded to whole blocks.
            unsafe {
                for (r, w) in w.iter_mut().enumerate() {
                    *w = source.tail_half(row + r, half);
                }
                accumulate(&mut sums, &w, &tokens, whole * BLOCK + 16 * half);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            out[(corner.t + t) * corner.width + corner.r + r] = horizontal_sum(*sum);
        }
    }
    T
}

/// Adds the products of 16 columns from `col`. Tokens come one after another, so that the sums leave registers
/// for weights and activations.
///
/// # Safety
/// AVX-512; the columns are within the packed rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn accumulate<const R: usize, const T: usize>(
    sums: &mut [[__m512; T]; R],
    w: &[__m512; R],
    tokens: &[*const f32; T],
    col: usize,
) {
    for t in 0..T {
        // SAFETY: the caller's promise.
        let x = unsafe { _mm512_loadu_ps(tokens[t].add(col)) };
        for r in 0..R {
            sums[r][t] = _mm512_fmadd_ps(w[r], x, sums[r][t]);
        }
    }
}

/// The 16 lanes in a halving tree, spelled out so that it is the same everywhere.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) fn horizontal_sum(v: __m512) -> f32 {
    let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}
