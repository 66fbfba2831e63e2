//! Activations in block floating point of 16 bits.

use std::arch::x86_64::*;
use std::ops::Range;

use super::{BLOCK, GROUP, LANES, PAIRS, PLANES, TILE, few_tokens};
use crate::cpu::Scratch;
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
        let num_blocks = num_groups * GROUP / BLOCK;
        for (token, row) in rows.enumerate() {
            for (block, values) in row.chunks(BLOCK).enumerate() {
                // SAFETY: the caller's promise.
                packed.put(token, block, unsafe { quantize(values) });
            }
            for block in cols.div_ceil(BLOCK)..num_blocks {
                packed.put(token, block, ([0; PAIRS], 0.0));
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
    pub(super) fn row(&self, token: usize) -> (*const i32, *const f32) {
        assert!(self.layout == Layout::Rows);
        let first_group = token * self.num_groups;
        let half_steps = &self.half_steps[first_group * half_steps_per_group(self.layout)..];
        (self.pairs[first_group * GROUP / 2..].as_ptr().cast(), half_steps.as_ptr())
    }

    /// Tokens of each tile of [`Layout::Tiles`], ascending; at least half as many as a tile takes, as fewer would not be
    /// laid out so.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Range<usize>> {
        let (num_tokens, num_tiles) = (self.num_tokens, self.num_tokens.div_ceil(TILE));
        // Of nearly the same size: a tile of one token would wait for its own sums.
        (0..num_tiles).map(move |tile| num_tokens * tile / num_tiles..num_tokens * (tile + 1) / num_tiles)
    }

    /// Pairs and half steps of a tile in [`Layout::Tiles`] that starts with token `first`.
    pub(super) fn tile(&self, first: usize) -> (*const i32, *const f32) {
        assert!(self.layout == Layout::Tiles);
        let first_group = first * self.num_groups;
        let half_steps = &self.half_steps[first_group * half_steps_per_group(self.layout)..];
        (self.pairs[first_group * GROUP / 2..].as_ptr().cast(), half_steps.as_ptr())
    }

    fn put(&mut self, token: usize, block: usize, (pairs, half_step): Quantized) {
        let (group, in_group) = (block / 4, block % 4);
        match self.layout {
            Layout::Rows => {
                let at = token * self.num_groups + group;
                self.half_steps[at * LANES + 4 * in_group..][..4].fill(half_step);
                for (s, pairs) in pairs.chunks_exact(4).enumerate() {
                    let to = &mut self.pairs[(at * PLANES + s) * LANES + 4 * in_group..][..4];
                    to.iter_mut().zip(pairs).for_each(|(to, pair)| *to = f32::from_bits(*pair as u32));
                }
            }
            Layout::Tiles => {
                // The inverse of `tiles`.
                let num_tiles = self.num_tokens.div_ceil(TILE);
                let tile = (num_tiles * (token + 1) - 1) / self.num_tokens;
                let first = self.num_tokens * tile / num_tiles;
                let count = self.num_tokens * (tile + 1) / num_tiles - first;
                let at = first * self.num_groups * 4 + block * count + (token - first);
                self.half_steps[at] = half_step;
                let at = first * self.num_groups * GROUP / 2 + block * PAIRS * count + (token - first);
                let to = self.pairs[at..].iter_mut().step_by(count);
                to.zip(pairs).for_each(|(to, pair)| *to = f32::from_bits(pair as u32));
            }
        }
    }
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
    let mask = u32::MAX >> (BLOCK - values.len());
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
