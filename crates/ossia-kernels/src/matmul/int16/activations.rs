//! Activations in block floating point of 16 bits.

use std::ops::Range;

#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{BLOCK, GROUP, LANES, PAIRS, PLANES, Unit};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::Isa;
use crate::cpu::{Scratch, prefetch};
use crate::weight::Format;

/// Exponent below which a block's grid gets no finer: its step is then 2^-114.
const MIN_EXPONENT: i32 = -100;
/// How many blocks ahead of those being quantised memory is asked for.
const AHEAD: usize = 8;
/// Significant bits of a value below its leading one.
pub(super) const FRACTION_BITS: i32 = 14;

/// Rows of activations: `value = q * step`, `q` a 16-bit integer, `step` a power of two per block of 32.
///
/// A block is 16 pairs: pair `4 * s + j` holds the values `8 * j + s` and `8 * j + s + 4`. That is where the
/// four dwords `j` of an MXFP4 block, eight nibbles each, have them when shifted right by `s` nibbles. Steps
/// are kept halved, which makes up for MXFP4's weights being counted in halves. Rows are padded with zeros to
/// whole groups.
pub(crate) struct Int16Rows {
    /// The instruction set that multiplies them.
    isa: Isa,
    num_tokens: usize,
    num_groups: usize,
    layout: Layout,
    /// Most tokens of a tile.
    tile: usize,
    /// As bits.
    pairs: Scratch,
    half_steps: Scratch,
}

/// Pairs and half steps of a token, or of a tile of them.
pub(super) type PackedRow = (*const i32, *const f32);

/// Tokens cut into as few ranges of at most `most` as there must be, of nearly the same size: a range of one token would
/// wait for its own sums. Longer ranges come first.
pub(super) fn passes(num_tokens: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    runs(num_tokens, most).flat_map(|(tokens, len)| tokens.step_by(len).map(move |first| first..first + len))
}

/// The same, ranges of one length together, with that length.
fn runs(num_tokens: usize, most: usize) -> impl Iterator<Item = (Range<usize>, usize)> {
    let count = num_tokens.div_ceil(most).max(1);
    let (len, num_longer) = (num_tokens / count, num_tokens % count);
    let end_of_longer = num_longer * (len + 1);
    let runs = [(0..end_of_longer, len + 1), (end_of_longer..num_tokens, len)];
    runs.into_iter().filter(|(tokens, _)| !tokens.is_empty())
}

/// Where pairs and half steps lie.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// For few tokens: `[tokens, groups, 4 values of s, 4 blocks, 4 values of j]` pairs and
    /// `[tokens, groups, 4 blocks, 4]` half steps, each four times.
    Rows,
    /// For [`super::wide`], tile by tile: `[blocks, 16 pairs, tokens of the tile]` and `[blocks, tokens of the tile]`.
    Tiles,
}

impl Int16Rows {
    /// Packs rows of `cols` values each for weights in `format`. A block with a NaN or an infinity becomes NaN.
    ///
    /// # Safety
    /// `isa` is available, and one that has a [`Unit`].
    pub(in super::super) unsafe fn pack<'a>(
        isa: Isa,
        format: Format<'_>,
        cols: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Amx | Isa::Avx512Vnni => {
                    Self::pack_with::<avx512::Avx512>(Isa::Avx512Vnni, format, cols, rows)
                }
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Avx2 => {
                    Self::pack_with::<avx2::Avx2<false>>(Isa::Avx2, format, cols, rows)
                }
                #[cfg(target_arch = "aarch64")]
                Isa::Neon if neon::NeonDot::takes(format) => {
                    Self::pack_with::<neon::NeonDot>(isa, format, cols, rows)
                }
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => Self::pack_with::<neon::Neon>(isa, format, cols, rows),
                _ => unreachable!("no integer products with {}", isa.name()),
            }
        }
    }

    /// # Safety
    /// The instructions of `U`, which are `isa`.
    pub(super) unsafe fn pack_with<'a, U: Unit>(
        isa: Isa,
        format: Format<'_>,
        cols: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) -> Self {
        let (num_tokens, num_groups) = (rows.len(), cols.div_ceil(GROUP));
        let few = if matches!(format, Format::Int8(_)) { U::FEW_INT8 } else { U::FEW_MXFP4 };
        let layout = if num_tokens <= few { Layout::Rows } else { Layout::Tiles };
        let mut packed = Self {
            isa,
            num_tokens,
            num_groups,
            layout,
            tile: U::TILE,
            pairs: Scratch::new(num_tokens * num_groups * GROUP / 2),
            half_steps: Scratch::new(num_tokens * num_groups * half_steps_per_group(layout)),
        };
        match layout {
            Layout::Rows => {
                for (token, row) in rows.enumerate() {
                    // SAFETY: the caller's promise.
                    unsafe { packed.put_row::<U>(token, row) };
                }
            }
            Layout::Tiles => {
                let rows: Vec<&[f32]> = rows.collect();
                for tokens in passes(num_tokens, U::TILE) {
                    // SAFETY: the caller's promise.
                    unsafe { packed.put_tile::<U>(tokens.start, &rows[tokens]) };
                }
            }
        }
        packed
    }

    /// The instruction set that multiplies them.
    pub(super) fn isa(&self) -> Isa {
        self.isa
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

    /// Tokens of the tiles of [`Layout::Tiles`], ascending: those of one size together, with that size.
    pub(super) fn tiles(&self) -> impl Iterator<Item = (Range<usize>, usize)> + use<> {
        runs(self.num_tokens, self.tile)
    }

    /// Pairs and half steps of a tile in [`Layout::Tiles`] that starts with token `first`.
    pub(super) fn tile(&self, first: usize) -> PackedRow {
        assert!(self.layout == Layout::Tiles);
        let first_group = first * self.num_groups;
        let half_steps = &self.half_steps[first_group * half_steps_per_group(self.layout)..];
        (self.pairs[first_group * GROUP / 2..].as_ptr().cast(), half_steps.as_ptr())
    }

    /// Packs one token for [`Layout::Rows`].
    ///
    /// # Safety
    /// The instructions of `U`.
    unsafe fn put_row<U: Unit>(&mut self, token: usize, row: &[f32]) {
        for block in 0..self.num_groups * GROUP / BLOCK {
            // SAFETY: the caller's promise.
            let (pairs, half_step) = unsafe { U::quantize(block_of(row, block)) };
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
    unsafe fn put_tile<U: Unit>(&mut self, first: usize, rows: &[&[f32]]) {
        let count = rows.len();
        assert!((1..=LANES).contains(&count));
        let num_blocks = self.num_groups * GROUP / BLOCK;
        let half_steps = &mut self.half_steps[first * num_blocks..][..count * num_blocks];
        let pairs = &mut self.pairs[first * num_blocks * PAIRS..][..count * num_blocks * PAIRS];
        let blocks = pairs.chunks_exact_mut(PAIRS * count).zip(half_steps.chunks_exact_mut(count));
        for (block, (pairs, half_steps)) in blocks.enumerate() {
            let mut tokens: [&[f32]; LANES] = [&[]; LANES];
            for (token, row) in tokens.iter_mut().zip(rows) {
                *token = block_of(row, block);
                let ahead = row.as_ptr().wrapping_add((block + AHEAD) * BLOCK);
                prefetch(ahead.cast());
                prefetch(ahead.wrapping_add(BLOCK / 2).cast());
            }
            // SAFETY: the caller's promise.
            unsafe { U::quantize_tile(&tokens[..count], pairs, half_steps) };
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
pub(super) fn exponent(max: f32) -> i32 {
    ((max.to_bits() >> 23) as i32 - 127).max(MIN_EXPONENT)
}

/// `2^exponent`, in the normal range.
pub(super) fn pow2(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
