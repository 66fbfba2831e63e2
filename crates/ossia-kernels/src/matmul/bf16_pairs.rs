//! Products of dense bf16 weights, as they are stored, with activations rounded to bf16, for processors that multiply and sum
//! pairs of bf16 fast.

use std::arch::x86_64::*;
use std::ops::Range;

use half::bf16;

use super::f32_avx512::horizontal_sum;
use super::f32_pack::Corner;
use crate::cpu::{Scratch, dot_bf16, to_bf16};

/// Values of a register; rows of activations are padded with zeros to whole registers.
const BLOCK: usize = 32;
/// Values of a page of memory.
const PAGE: usize = 2048;
/// Weight rows and tokens of the largest register tile: 24 sums.
const ROWS: usize = 4;
const TOKENS: usize = 6;
/// Tokens that meet all rows of a task before the next ones: their activations stay in the second-level cache.
const TOKENS_IN_CACHE: usize = 16 * TOKENS;
/// How many rows ahead of those being read memory is asked for.
const AHEAD: usize = 2 * ROWS;

/// Rows of activations in bf16.
pub(crate) struct Bf16Rows {
    num_tokens: usize,
    /// Values from row to row: whole registers and never whole pages, as in [`super::f32_pack`].
    stride: usize,
    values: Scratch,
}

impl Bf16Rows {
    /// Packs rows of `cols` values each.
    ///
    /// # Safety
    /// AVX-512 F, BW and BF16.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    pub(super) unsafe fn pack<'a>(cols: usize, rows: impl ExactSizeIterator<Item = &'a [f32]>) -> Self {
        let num_tokens = rows.len();
        let stride = cols.next_multiple_of(BLOCK);
        let stride = if stride.is_multiple_of(PAGE) { stride + BLOCK } else { stride };
        let mut values = Scratch::new(num_tokens * stride / 2);
        for (row, packed) in rows.zip(values.chunks_mut(stride / 2)) {
            for (from, to) in row.chunks(16).zip(packed.chunks_mut(8)) {
                let mask = u16::MAX >> (16 - from.len());
                // SAFETY: the mask keeps to what there is of `from`; half a register fills `to`.
                unsafe {
                    let x = _mm512_maskz_loadu_ps(mask, from.as_ptr());
                    _mm256_storeu_si256(to.as_mut_ptr().cast(), to_bf16(x));
                }
            }
            packed[cols.div_ceil(16) * 8..].fill(0.0);
        }
        Self { num_tokens, stride, values }
    }

    /// One row, padded.
    fn row(&self, token: usize) -> *const bf16 {
        self.values[token * self.stride / 2..][..self.stride / 2].as_ptr().cast()
    }
}

/// As [`super::multiply`], of bf16 weights `[_, cols]`.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and BF16; `rows` within the weight; `x` packed for it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(weight: &[u8], cols: usize, rows: Range<usize>, x: &Bf16Rows, out: &mut [f32]) {
    assert!(weight.len() >= 2 * rows.end * cols && x.stride >= cols);
    let width = rows.len();
    assert_eq!(out.len(), width * x.num_tokens);
    for start in (0..x.num_tokens).step_by(TOKENS_IN_CACHE) {
        let tokens = start..x.num_tokens.min(start + TOKENS_IN_CACHE);
        let mut r = 0;
        while r < width {
            let corner = Corner { first_row: rows.start, width, r, t: 0 };
            // SAFETY: the tiles lie within rows and tokens.
            r += unsafe {
                match width - r {
                    ROWS.. => some_rows::<ROWS>(weight, cols, corner, tokens.clone(), x, out),
                    _ => some_rows::<1>(weight, cols, corner, tokens.clone(), x, out),
                }
            };
        }
    }
}

/// `R` rows with `tokens`; returns `R`.
///
/// # Safety
/// As [`multiply`]; rows and tokens are there.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn some_rows<const R: usize>(
    weight: &[u8],
    cols: usize,
    corner: Corner,
    tokens: Range<usize>,
    x: &Bf16Rows,
    out: &mut [f32],
) -> usize {
    let mut t = tokens.start;
    while t < tokens.end {
        let corner = Corner { t, ..corner };
        // SAFETY: the caller's promise, by the choice of the tile's size.
        t += unsafe {
            match tokens.end - t {
                TOKENS.. => tile::<R, TOKENS>(weight, cols, corner, x, out),
                4.. => tile::<R, 4>(weight, cols, corner, x, out),
                2.. => tile::<R, 2>(weight, cols, corner, x, out),
                _ => tile::<R, 1>(weight, cols, corner, x, out),
            }
        };
    }
    R
}

/// `R` rows with `T` tokens; returns `T`. Each sum is one register, fed block after block: the order is the same for every
/// `R` and `T`.
///
/// # Safety
/// As [`multiply`]; the tile is within rows and tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn tile<const R: usize, const T: usize>(
    weight: &[u8],
    cols: usize,
    corner: Corner,
    x: &Bf16Rows,
    out: &mut [f32],
) -> usize {
    let row = corner.first_row + corner.r;
    let rows: [*const bf16; R] = std::array::from_fn(|r| weight[2 * (row + r) * cols..].as_ptr().cast());
    let tokens: [*const bf16; T] = std::array::from_fn(|t| x.row(corner.t + t));
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    // Later tokens find the rows in the cache.
    let is_first = corner.t == 0;
    let whole = cols / BLOCK * BLOCK;
    for col in (0..whole).step_by(BLOCK) {
        let mut w = [_mm512_setzero_si512(); R];
        // SAFETY: rows and columns are in range; a packed row is whole registers.
        unsafe {
            for (row, w) in rows.iter().zip(&mut w) {
                let at = row.add(col);
                if is_first {
                    _mm_prefetch::<_MM_HINT_T1>(at.wrapping_add(AHEAD * cols).cast());
                }
                *w = _mm512_loadu_si512(at.cast());
            }
            accumulate(&mut sums, &w, &tokens, col);
        }
    }
    if whole < cols {
        let mask = u32::MAX >> (BLOCK - (cols - whole));
        let mut w = [_mm512_setzero_si512(); R];
        // SAFETY: as above; the mask keeps to the row.
        unsafe {
            for (row, w) in rows.iter().zip(&mut w) {
                *w = _mm512_maskz_loadu_epi16(mask, row.add(whole).cast());
            }
            accumulate(&mut sums, &w, &tokens, whole);
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (t, sum) in sums.iter().enumerate() {
            out[(corner.t + t) * corner.width + corner.r + r] = horizontal_sum(*sum);
        }
    }
    T
}

/// Adds the products of 32 columns from `col`.
///
/// # Safety
/// AVX-512 F and BF16; the columns are within the packed rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn accumulate<const R: usize, const T: usize>(
    sums: &mut [[__m512; T]; R],
    w: &[__m512i; R],
    tokens: &[*const bf16; T],
    col: usize,
) {
    for t in 0..T {
        // SAFETY: the caller's promise.
        let x = unsafe { _mm512_loadu_si512(tokens[t].add(col).cast()) };
        for r in 0..R {
            sums[r][t] = dot_bf16(w[r], x, sums[r][t]);
        }
    }
}
