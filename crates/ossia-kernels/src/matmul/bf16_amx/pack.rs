//! Activations rounded to bf16 and laid out as the right-hand tiles of AMX products.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP};
use crate::cpu::{Scratch, SharedSlice, for_each_task, threads_for};
use crate::matmul::transpose::transpose_16x16;
use crate::weight::Format;

/// Activations as tiles: groups of up to 16 tokens, in each group blocks of 32 values, in each block 16
/// rows (pairs of values) of `width` tokens. One group of fewer than 16 tokens is as wide as it has
/// tokens; otherwise all are 16 wide and the last is padded with zeros.
pub(crate) struct TiledRows {
    num_tokens: usize,
    num_blocks: usize,
    width: usize,
    /// Pairs of bf16.
    pairs: Scratch,
}

impl TiledRows {
    /// Rounds rows of `cols` values to bf16 (nearest even) and packs them for weights of `format`.
    ///
    /// # Safety
    /// AVX-512 F and BW.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(in crate::matmul) unsafe fn pack<'a>(
        format: Format<'_>,
        cols: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) -> Self {
        let rows: Vec<&[f32]> = rows.collect();
        let (num_tokens, num_blocks) = (rows.len(), cols.div_ceil(BLOCK));
        let width = num_tokens.min(GROUP);
        let group_len = num_blocks * GROUP * width;
        let mut pairs = Scratch::new(num_tokens.div_ceil(GROUP) * group_len);
        let shared = SharedSlice::new(&mut pairs);
        for_each_task(num_tokens.div_ceil(GROUP), threads_for(num_tokens * cols), |group| {
            let rows = &rows[group * GROUP..num_tokens.min((group + 1) * GROUP)];
            // SAFETY: each group has its own part; the caller has AVX-512.
            unsafe {
                pack_group(rows, order_of(format), shared.range(group * group_len..(group + 1) * group_len))
            };
        });
        Self { num_tokens, num_blocks, width, pairs }
    }

    /// Number of tokens.
    pub(super) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Blocks of 32 values per token.
    pub(super) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// Groups of up to 16 tokens.
    pub(super) fn num_groups(&self) -> usize {
        self.num_tokens.div_ceil(GROUP)
    }

    /// Tokens in each group, padding included.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Bytes from one row of a tile to the next.
    pub(super) fn stride(&self) -> usize {
        4 * self.width
    }

    /// Bytes from one block to the next.
    pub(super) fn step(&self) -> usize {
        64 * self.width
    }

    /// The tile of a group and block.
    pub(super) fn tile(&self, group: usize, block: usize) -> *const u8 {
        let at = (group * self.num_blocks + block) * GROUP * self.width;
        self.pairs[at..].as_ptr().cast()
    }
}

/// Which value of a block each position of a tile holds.
/// MXFP4 tiles hold the first nibbles of all 16-bit words, then the second ones, and so on.
fn order_of(format: Format<'_>) -> [u16; BLOCK] {
    match format {
        Format::Mxfp4 { .. } => std::array::from_fn(|p| (4 * (p % 8) + p / 8) as u16),
        _ => std::array::from_fn(|p| p as u16),
    }
}

/// Writes the tiles of up to 16 rows.
///
/// # Safety
/// AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_group(rows: &[&[f32]], order: [u16; BLOCK], tiles: &mut [f32]) {
    // SAFETY: 64 readable bytes.
    let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
    let width = tiles.len() / rows[0].len().div_ceil(BLOCK).max(1) / GROUP;
    for (block, tile) in tiles.chunks_exact_mut((GROUP * width).max(1)).enumerate() {
        if width == 1 {
            let values = round_block(rows[0], block, order);
            // SAFETY: a tile that is one token wide has 64 bytes.
            unsafe { _mm512_storeu_si512(tile.as_mut_ptr().cast(), values) };
            continue;
        }
        let mut values = [_mm512_setzero_si512(); GROUP];
        for (values, row) in values.iter_mut().zip(rows) {
            *values = round_block(row, block, order);
        }
        write_tile(values, tile);
    }
}

/// Block `block` of `row` as 32 bf16 in the given order; what is past the end of the row is zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn round_block(row: &[f32], block: usize, order: __m512i) -> __m512i {
    let rest = row.get(block * BLOCK..).unwrap_or(&[]);
    let mask = 1u64.checked_shl(rest.len() as u32).map_or(u32::MAX, |bit| (bit - 1) as u32);
    // SAFETY: the masks keep both loads within the row.
    let (lo, hi) = unsafe {
        (
            _mm512_maskz_loadu_ps(mask as u16, rest.as_ptr()),
            _mm512_maskz_loadu_ps((mask >> 16) as u16, rest.as_ptr().wrapping_add(16)),
        )
    };
    let words = _mm512_castsi256_si512(round(lo));
    let words = _mm512_inserti64x4::<1>(words, round(hi));
    _mm512_permutexvar_epi16(order, words)
}

/// f32 to bf16, ties to even; NaN stays NaN.
#[inline]
#[target_feature(enable = "avx512f")]
fn round(v: __m512) -> __m256i {
    let bits = _mm512_castps_si512(v);
    let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
    let bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    let rounded = _mm512_add_epi32(bits, bias);
    let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
    let rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(1 << 22));
    _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded))
}

/// Writes the values of 16 tokens as the 16 rows of a tile; tokens past its width are left out.
#[inline]
#[target_feature(enable = "avx512f")]
fn write_tile(tokens: [__m512i; GROUP], tile: &mut [f32]) {
    let width = tile.len() / GROUP;
    let mask = ((1u32 << width) - 1) as u16;
    for (row, pairs) in tile.chunks_exact_mut(width).zip(transpose_16x16(tokens)) {
        // SAFETY: the mask keeps the store to the `width` pairs of the row.
        unsafe { _mm512_mask_storeu_epi32(row.as_mut_ptr().cast(), mask, pairs) };
    }
}
