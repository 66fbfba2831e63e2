//! Activations rounded to bf16 and laid out as the right-hand tiles of AMX products.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP, PARTS, SIDE};
use crate::cpu::transpose_16x16;
use crate::cpu::{Scratch, SharedSlice, for_each_task, threads_for};
use crate::weight::Format;

/// Values between two tiles of tokens, 17 cache lines: a group of 16 tokens is a page, and whole pages apart the blocks of
/// tiles would share sets of the cache and look alike to the processor's check whether a load must wait for a store.
const APART: usize = 17 * 16;

/// Activations as tiles of up to 16 tokens: `[tiles of tokens, blocks of k, 16 pairs of values, width]`. One tile of
/// fewer than 16 tokens is as wide as it has tokens; otherwise all are 16 wide and the last is padded with zeros. So
/// are values past the last column, up to a whole group.
pub(crate) struct TiledRows {
    num_tokens: usize,
    num_groups: usize,
    width: usize,
    /// Values from one tile of tokens to the next.
    tile_len: usize,
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
        let (num_tokens, num_groups) = (rows.len(), cols.div_ceil(GROUP));
        let width = num_tokens.min(SIDE);
        let tile_len = num_groups * PARTS * SIDE * width + APART;
        let mut pairs = Scratch::new(num_tokens.div_ceil(SIDE) * tile_len);
        let shared = SharedSlice::new(&mut pairs);
        let by_lane = matches!(format, Format::Mxfp4 { .. });
        for_each_task(num_tokens.div_ceil(SIDE), threads_for(num_tokens * cols), |tile| {
            let rows = &rows[tile * SIDE..num_tokens.min((tile + 1) * SIDE)];
            // SAFETY: each tile of tokens has its own part; the caller has AVX-512.
            unsafe {
                let tiles = shared.range(tile * tile_len..(tile + 1) * tile_len - APART);
                match by_lane {
                    true => pack_tile::<true>(rows, width, tiles),
                    false => pack_tile::<false>(rows, width, tiles),
                }
            };
        });
        Self { num_tokens, num_groups, width, tile_len, pairs }
    }

    /// Number of tokens.
    pub(super) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Groups of values per token.
    pub(super) fn num_groups(&self) -> usize {
        self.num_groups
    }

    /// Tiles of up to 16 tokens.
    pub(super) fn num_tiles(&self) -> usize {
        self.num_tokens.div_ceil(SIDE)
    }

    /// Tokens in each tile, padding included.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Bytes from one row of a tile to the next.
    pub(super) fn stride(&self) -> usize {
        4 * self.width
    }

    /// Bytes from one block to the next.
    pub(super) fn step(&self) -> usize {
        self.stride() * SIDE
    }

    /// Block `block` of tile `tile` of tokens.
    pub(super) fn tile(&self, tile: usize, block: usize) -> *const u8 {
        let at = tile * self.tile_len + block * SIDE * self.width;
        self.pairs[at..].as_ptr().cast()
    }
}

/// Writes the tiles of up to 16 rows. `BY_LANE`: in the order in which MXFP4 is decoded; else block by block.
///
/// # Safety
/// AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_tile<const BY_LANE: bool>(rows: &[&[f32]], width: usize, tiles: &mut [f32]) {
    for (group, tiles) in tiles.chunks_exact_mut((PARTS * SIDE * width).max(1)).enumerate() {
        let mut values = [[_mm512_setzero_si512(); SIDE]; PARTS];
        for (token, row) in rows.iter().enumerate() {
            let blocks = std::array::from_fn(|part| round_block(row, group * PARTS + part));
            let blocks = if BY_LANE { deal(blocks) } else { blocks };
            for (values, block) in values.iter_mut().zip(blocks) {
                values[token] = block;
            }
        }
        for (values, tile) in values.into_iter().zip(tiles.chunks_exact_mut(SIDE * width)) {
            if width == 1 {
                // SAFETY: a tile that is one token wide has 64 bytes.
                unsafe { _mm512_storeu_si512(tile.as_mut_ptr().cast(), values[0]) };
            } else {
                write_tile(values, tile);
            }
        }
    }
}

/// Deals 128 values out to four hands of eight from each block: the even values of its first half, those of its second
/// half, and likewise the odd ones.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn deal([a, b, c, d]: [__m512i; PARTS]) -> [__m512i; PARTS] {
    // Every other of the first 16 values of one register, then of another one.
    const EVERY_OTHER: [u16; BLOCK] = {
        let mut order = [0; BLOCK];
        let mut at = 0;
        while at < SIDE {
            order[at] = (at / 8 * BLOCK + 2 * (at % 8)) as u16;
            at += 1;
        }
        order
    };
    // SAFETY: 64 readable bytes.
    let first = unsafe { _mm512_loadu_si512(EVERY_OTHER.as_ptr().cast()) };
    std::array::from_fn(|hand| {
        let order = _mm512_add_epi16(first, _mm512_set1_epi16((hand % 2 * 16 + hand / 2) as i16));
        let ab = _mm512_permutex2var_epi16(a, order, b);
        let cd = _mm512_permutex2var_epi16(c, order, d);
        _mm512_shuffle_i64x2::<0x44>(ab, cd)
    })
}

/// Block `block` of `row` as 32 bf16; what is past the end of the row is zero.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn round_block(row: &[f32], block: usize) -> __m512i {
    let rest = row.get(block * BLOCK..).unwrap_or(&[]);
    let mask = 1u64.checked_shl(rest.len() as u32).map_or(u32::MAX, |bit| (bit - 1) as u32);
    // SAFETY: the masks keep both loads within the row.
    let (lo, hi) = unsafe {
        (
            _mm512_maskz_loadu_ps(mask as u16, rest.as_ptr()),
            _mm512_maskz_loadu_ps((mask >> 16) as u16, rest.as_ptr().wrapping_add(16)),
        )
    };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(round(lo)), round(hi))
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
fn write_tile(tokens: [__m512i; SIDE], tile: &mut [f32]) {
    let width = tile.len() / SIDE;
    let mask = ((1u32 << width) - 1) as u16;
    for (row, pairs) in tile.chunks_exact_mut(width).zip(transpose_16x16(tokens)) {
        // SAFETY: the mask keeps the store to the `width` pairs of the row.
        unsafe { _mm512_mask_storeu_epi32(row.as_mut_ptr().cast(), mask, pairs) };
    }
}
