//! Activations in block floating point of 16 bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{BLOCK, GROUP, LANES, PAIRS, PLANES, TILE, few_tokens};
use crate::cpu::{Scratch, transpose_16x16};
use crate::weight::Format;

/// Exponent below which a block's grid gets no finer: its step is then 2^-114.
const MIN_EXPONENT: i32 = -100;
/// Significant bits of a value below its leading one.
const FRACTION_BITS: i32 = 14;

/// Rows of activations: `value = q * step`, `q` a 16-bit integer, `step` a power of two per block of 32.
///
/// A block is 16 pairs: pair `4 * s + j` holds the values `8 * j + s` and `8 * j + s + 4`. That is where the
/// four dwords `j` of an MXFP4 block, eight nibbles each, have them when shifted right by `s` nibbles. Steps
/// are kept halved, which makes up for MXFP4's weights being counted in halves. Rows are padded with zeros to
/// whole groups.
pub(crate) struct Int16Rows {
    num_tokens: usize,
    num_groups: usize,
    layout: Layout,
    /// As bits.
    pairs: Scratch,
    half_steps: Scratch,
}

/// Pairs and half steps of a token.
pub(super) type PackedRow = (*const i32, *const f32);

/// Tokens cut into as few ranges of at most `most` as there must be, of nearly the same size: a range of one token would
/// wait for its own sums.
pub(super) fn passes(num_tokens: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = num_tokens.div_ceil(most);
    (0..count).map(move |pass| num_tokens * pass / count..num_tokens * (pass + 1) / count)
}

/// Where pairs and half steps lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// For [`super::narrow`]: `[tokens, groups, 4 values of s, 4 blocks, 4 values of j]` pairs and
    /// `[tokens, groups, 4 blocks, 4]` half steps, each four times.
    Rows,
    /// For [`super::wide`], tile by tile: `[blocks, 16 pairs, tokens of the tile]` and `[blocks, tokens of the tile]`.
    Tiles,
}

impl Int16Rows {
    /// Packs rows of `cols` values each for weights in `format`. A block with a NaN or an infinity becomes NaN.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in super::super) unsafe fn pack<'a>(
        format: Format<'_>,
        cols: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) -> Self {
        let (num_tokens, num_groups) = (rows.len(), cols.div_ceil(GROUP));
        let layout = if num_tokens <= few_tokens(format) { Layout::Rows } else { Layout::Tiles };
        let mut packed = Self {
            num_tokens,
            num_groups,
            layout,
            pairs: Scratch::new(num_tokens * num_groups * GROUP / 2),
            half_steps: Scratch::new(num_tokens * num_groups * half_steps_per_group(layout)),
        };
        match layout {
            Layout::Rows => {
                for (token, row) in rows.enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe { packed.put_row(token, row) };
                }
            }
            Layout::Tiles => {
                let rows: Vec<&[f32]> = rows.collect();
                for tokens in packed.tiles() {
                    // SAFETY: the caller's promise.
                    unsafe { packed.put_tile(tokens.start, &rows[tokens]) };
                }
            }
        }
        packed
    }

    /// Number of rows.
    pub(super) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Whether they are laid out for ways that take a few tokens.
    pub(super) fn are_few(&self) -> bool {
        self.layout == Layout::Rows
    }

    /// Groups per row.
    pub(super) fn num_groups(&self) -> usize {
        self.num_groups
    }

    /// Pairs and half steps of a token in [`Layout::Rows`].
    pub(super) fn row(&self, token: usize) -> PackedRow {
        assert!(self.layout == Layout::Rows);
        let first_group = token * self.num_groups;
        let half_steps = &self.half_steps[first_group * half_steps_per_group(self.layout)..];
        (self.pairs[first_group * GROUP / 2..].as_ptr().cast(), half_steps.as_ptr())
    }

    /// Tokens of each tile of [`Layout::Tiles`], ascending; at least half as many as a tile takes, as fewer tokens would not
    /// be laid out so.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        passes(self.num_tokens, TILE)
    }

    /// Pairs and half steps of a tile in [`Layout::Tiles`] that starts with token `first`.
    pub(super) fn tile(&self, first: usize) -> (*const i32, *const f32) {
        assert!(self.layout == Layout::Tiles);
        let first_group = first * self.num_groups;
        let half_steps = &self.half_steps[first_group * half_steps_per_group(self.layout)..];
        (self.pairs[first_group * GROUP / 2..].as_ptr().cast(), half_steps.as_ptr())
    }

    /// Packs one token for [`Layout::Rows`].
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn put_row(&mut self, token: usize, row: &[f32]) {
        for block in 0..self.num_groups * GROUP / BLOCK {
            // SAFETY: the caller's promise.
            let (pairs, half_step) = unsafe { quantize(block_of(row, block)) };
            let (group, in_group) = (block / 4, block % 4);
            let at = token * self.num_groups + group;
            self.half_steps[at * LANES + 4 * in_group..][..4].fill(half_step);
            for (s, pairs) in pairs.chunks_exact(4).enumerate() {
                let to = &mut self.pairs[(at * PLANES + s) * LANES + 4 * in_group..][..4];
                to.iter_mut().zip(pairs).for_each(|(to, pair)| *to = f32::from_bits(*pair as u32));
            }
        }
    }

    /// Packs a tile of tokens, from token `first`, for [`Layout::Tiles`].
    ///
    /// # Safety
    /// As [`Int16Rows::put_row`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn put_tile(&mut self, first: usize, rows: &[&[f32]]) {
        let count = rows.len();
        assert!((1..=TILE).contains(&count));
        let lanes = u16::MAX >> (LANES - count);
        let num_blocks = self.num_groups * GROUP / BLOCK;
        let half_steps = &mut self.half_steps[first * num_blocks..][..count * num_blocks];
        let pairs = &mut self.pairs[first * num_blocks * PAIRS..][..count * num_blocks * PAIRS];
        for block in 0..num_blocks {
            let mut tokens = [_mm512_setzero_si512(); LANES];
            for (token, row) in rows.iter().enumerate() {
                // SAFETY: the caller's promise; 16 pairs are a register long.
                unsafe {
                    let (pairs, half_step) = quantize(block_of(row, block));
                    tokens[token] = _mm512_loadu_si512(pairs.as_ptr().cast());
                    half_steps[block * count + token] = half_step;
                }
            }
            let to = &mut pairs[block * PAIRS * count..][..PAIRS * count];
            for (pair, tokens) in transpose_16x16(tokens).iter().enumerate() {
                // SAFETY: the mask keeps to the tokens of the pair.
                unsafe { _mm512_mask_storeu_epi32(to[pair * count..].as_mut_ptr().cast(), lanes, *tokens) };
            }
        }
    }
}

/// The values of block `block` of a row; none past its end.
fn block_of(row: &[f32], block: usize) -> &[f32] {
    let first = (block * BLOCK).min(row.len());
    &row[first..row.len().min(first + BLOCK)]
}

const fn half_steps_per_group(layout: Layout) -> usize {
    match layout {
        Layout::Rows => LANES,
        Layout::Tiles => GROUP / BLOCK,
    }
}

/// The pairs of a block and half its step.
pub(super) type Quantized = ([i32; PAIRS], f32);

/// The exponent that a block of largest magnitude `max` is quantised with.
fn exponent(max: f32) -> i32 {
    ((max.to_bits() >> 23) as i32 - 127).max(MIN_EXPONENT)
}

/// `2^exponent`, in the normal range.
fn pow2(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Quantises up to 32 values.
///
/// # Safety
/// AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn quantize(values: &[f32]) -> Quantized {
    let mask = u32::MAX.checked_shr((BLOCK - values.len()) as u32).unwrap_or(0);
    // SAFETY: the mask keeps the loads within `values`.
    let (a, b) = unsafe {
        (
            _mm512_maskz_loadu_ps(mask as u16, values.as_ptr()),
            _mm512_maskz_loadu_ps((mask >> 16) as u16, values.as_ptr().wrapping_add(16)),
        )
    };
    let (abs_a, abs_b) = (_mm512_abs_ps(a), _mm512_abs_ps(b));
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let finite =
        _mm512_cmp_ps_mask::<_CMP_LT_OQ>(abs_a, infinity) & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(abs_b, infinity);
    if finite != u16::MAX {
        return ([0; PAIRS], f32::NAN);
    }
    let exponent = exponent(_mm512_reduce_max_ps(_mm512_max_ps(abs_a, abs_b)));
    let factor = _mm512_set1_ps(pow2(FRACTION_BITS - exponent));
    // Saturates the values that round up to 2^15.
    let low = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(a, factor)));
    let high = _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(b, factor)));
    let q = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
    let mut pairs = [0; PAIRS];
    // SAFETY: 16 pairs are a register long.
    unsafe { _mm512_storeu_si512(pairs.as_mut_ptr().cast(), _mm512_permutexvar_epi16(pair_order(), q)) };
    (pairs, pow2(exponent - FRACTION_BITS - 1))
}

/// Which value of a block goes where, pair by pair.
#[target_feature(enable = "avx512f")]
fn pair_order() -> __m512i {
    const ORDER: [i16; BLOCK] = {
        let mut order = [0; BLOCK];
        let mut at = 0;
        while at < BLOCK {
            let (s, j, half) = (at / 8, at % 8 / 2, at % 2);
            order[at] = (8 * j + s + 4 * half) as i16;
            at += 1;
        }
        order
    };
    // SAFETY: 32 values of 16 bits fill a register.
    unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }
}
