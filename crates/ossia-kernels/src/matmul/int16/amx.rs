//! Many tokens with weights of 8 or 10 bits on AMX: weights are tiles as they lie.
//!
//! An activation of 16 bits is 256 times a signed byte and an unsigned one, so two tile products give a block's exact
//! sums; the vector units put them together, scale them and add them up as the module has it. A weight of 10 bits is
//! four times a signed byte and an unsigned one of two bits: two products more.

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx512::quantize;
use super::{BLOCK, LANES};
use crate::cpu::amx::{
    TILE_BYTES, TILE_ROW_BYTES, TileConfig, tile_dot_i8, tile_dot_u8, tile_load, tile_store, tile_zero,
};
use crate::cpu::{Scratch, SharedSlice, for_each_task, threads_for};
use crate::weight::Int8View;

/// Tokens of a tile.
const SIDE: usize = 16;
/// Bytes of the upper or the lower halves of a block of a tile of tokens.
const HALF_BYTES: usize = SIDE * BLOCK;
/// Bytes of a block of 16 rows of weights.
const WEIGHT_BYTES: usize = LANES * BLOCK;
/// Rows of a tile of weights: dwords of a block.
const DWORDS: usize = BLOCK / 4;
/// Partial sums of a row, by block.
const PARTS: usize = 4;
/// Tiles of tokens that meet all rows before the next ones do, so that they stay in the second-level cache.
const TOKEN_TILES: usize = 6;

/// Rows of activations as in [`super::Int16Rows`], their bytes apart.
pub(crate) struct Int16Tiles {
    num_tokens: usize,
    num_blocks: usize,
    /// `[tiles of tokens, blocks, upper or lower bytes, 16 tokens, 32 bytes]`; a row's bytes are in the order of
    /// [`Int8View::values`]. What tokens past the last one hold is not said.
    bytes: Scratch,
    /// `[tiles of tokens, blocks, 16 tokens]`.
    half_steps: Scratch,
}

impl Int16Tiles {
    /// Packs rows of `cols` values each.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ and VL.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in super::super) unsafe fn pack<'a>(cols: usize, rows: impl Iterator<Item = &'a [f32]>) -> Self {
        let rows: Vec<&[f32]> = rows.collect();
        let (num_tokens, num_blocks) = (rows.len(), cols.div_ceil(BLOCK));
        let num_tiles = num_tokens.div_ceil(SIDE);
        let (byte_len, step_len) = (num_blocks * 2 * HALF_BYTES / 4, num_blocks * SIDE);
        let mut bytes = Scratch::new(num_tiles * byte_len);
        let mut half_steps = Scratch::new(num_tiles * step_len);
        let (shared_bytes, shared_steps) = (SharedSlice::new(&mut bytes), SharedSlice::new(&mut half_steps));
        for_each_task(num_tiles, threads_for(num_tokens * cols), |tile| {
            // SAFETY: each tile of tokens has its own part; the caller has AVX-512.
            unsafe {
                let bytes = shared_bytes.range(tile * byte_len..(tile + 1) * byte_len);
                let half_steps = shared_steps.range(tile * step_len..(tile + 1) * step_len);
                for (token, row) in rows[tile * SIDE..].iter().take(SIDE).enumerate() {
                    pack_row(row, token, bytes, half_steps);
                }
            }
        });
        Self { num_tokens, num_blocks, bytes, half_steps }
    }

    /// Number of rows.
    pub(super) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Blocks per row.
    pub(super) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// The bytes and half steps of a tile of tokens.
    fn tile(&self, tile: usize) -> (*const u8, *const f32) {
        let blocks = tile * self.num_blocks;
        let bytes = self.bytes[blocks * 2 * HALF_BYTES / 4..].as_ptr().cast();
        (bytes, self.half_steps[blocks * SIDE..].as_ptr())
    }
}

/// Writes one token of a tile.
///
/// # Safety
/// As [`Int16Tiles::pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack_row(row: &[f32], token: usize, bytes: &mut [f32], half_steps: &mut [f32]) {
    // Of two pairs first the lower bytes, those of the first values before those of the second, then the upper.
    let apart = _mm512_set4_epi32(0x0f0b_0d09, 0x0e0a_0c08, 0x0703_0501, 0x0602_0400);
    let upper_first = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8, 10, 12, 14);
    for (block, values) in row.chunks(BLOCK).enumerate() {
        // SAFETY: the caller's promise; 16 pairs fill a register, half a register is a token's share of half a block.
        unsafe {
            let (pairs, half_step) = quantize(values);
            half_steps[block * SIDE + token] = half_step;
            let pairs = _mm512_loadu_si512(pairs.as_ptr().cast());
            let halves = _mm512_permutexvar_epi32(upper_first, _mm512_shuffle_epi8(pairs, apart));
            let to = &mut bytes[block * 2 * HALF_BYTES / 4..][..2 * HALF_BYTES / 4];
            let to: *mut u8 = to.as_mut_ptr().cast::<u8>().add(token * BLOCK);
            _mm256_storeu_si256(to.cast(), _mm512_castsi512_si256(halves));
            _mm256_storeu_si256(to.add(HALF_BYTES).cast(), _mm512_extracti64x4_epi64::<1>(halves));
        }
    }
}

/// As [`super::multiply`]; `rows` start with a panel.
///
/// # Safety
/// As [`super::multiply`], and AMX was detected.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(in super::super) unsafe fn multiply(
    weight: Int8View,
    rows: Range<usize>,
    x: &Int16Tiles,
    out: &mut [f32],
) {
    let width = rows.len();
    assert_eq!(out.len(), width * x.num_tokens());
    assert_eq!(weight.num_blocks, x.num_blocks());
    assert!(rows.start.is_multiple_of(LANES), "rows {rows:?} begin within a panel");
    let has_low_bits = !weight.low_bits.is_empty();
    let mut low = Scratch::new(if has_low_bits { weight.num_blocks * WEIGHT_BYTES / 4 } else { 0 });
    let mut parts = Scratch::new(PARTS * SIDE * LANES);
    let mut sums = Scratch::new(2 * SUM_TILES * TILE_BYTES / 4);
    // Sums in 0 to 3, upper and lower bytes of tokens in 4 and 5, weights and their low bits in 6 and 7.
    let (full, tokens, weights) = ((SIDE, TILE_ROW_BYTES), (SIDE, BLOCK), (DWORDS, TILE_ROW_BYTES));
    let shapes = [full, full, full, full, tokens, tokens, weights, weights];
    // SAFETY: AMX was detected; the shapes are at most 16 rows of 64 bytes.
    let _tiles = unsafe { TileConfig::new(shapes).load() };
    let num_tiles = x.num_tokens().div_ceil(SIDE);
    for first_tile in (0..num_tiles).step_by(TOKEN_TILES) {
        for first in (0..width).step_by(LANES) {
            let panel = (rows.start + first) / LANES;
            if has_low_bits {
                unpack_low_bits(weight, panel, &mut low);
            }
            for tile in first_tile..num_tiles.min(first_tile + TOKEN_TILES) {
                let count = SIDE.min(x.num_tokens() - tile * SIDE);
                // SAFETY: tiles are configured; the panel is in range.
                unsafe {
                    let (bytes, half_steps) = x.tile(tile);
                    let product = Product { weight, panel, bytes, half_steps, count };
                    match has_low_bits {
                        true => product.run::<true>(&low, &mut parts, &mut sums),
                        false => product.run::<false>(&low, &mut parts, &mut sums),
                    }
                    for (token, out) in out.chunks_exact_mut(width).skip(tile * SIDE).take(count).enumerate()
                    {
                        let lanes = LANES.min(width - first);
                        merge(&parts[token * LANES..], &mut out[first..][..lanes]);
                    }
                }
            }
        }
    }
}

/// Tiles of sums of a block: products of upper and lower bytes with weights, and with their low bits.
const SUM_TILES: usize = 4;

/// 16 rows of weights with a tile of tokens.
#[derive(Clone, Copy)]
struct Product<'a> {
    weight: Int8View<'a>,
    panel: usize,
    bytes: *const u8,
    half_steps: *const f32,
    /// Tokens of the tile.
    count: usize,
}

impl Product<'_> {
    /// Partial sums `[4, 16 tokens, 16 rows]` over all blocks. `TEN`: weights have low bits.
    ///
    /// # Safety
    /// As [`multiply`]; tiles are configured; the buffers are as long as they should be.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run<const TEN: bool>(self, low: &[f32], parts: &mut [f32], sums: &mut [f32]) {
        parts.fill(0.0);
        let (low, parts): (*const u8, *mut f32) = (low.as_ptr().cast(), parts.as_mut_ptr());
        let sums = sums.as_mut_ptr();
        let sums = |block: usize| sums.wrapping_add(block % 2 * SUM_TILES * TILE_BYTES / 4);
        let num_blocks = self.weight.num_blocks;
        let values: *const u8 = self.weight.values[self.panel * num_blocks * WEIGHT_BYTES..].as_ptr().cast();
        // SAFETY: blocks are in range; each has its place.
        unsafe {
            // The vector units are a block behind the tile unit.
            for block in 0..=num_blocks {
                if block < num_blocks {
                    let bytes = self.bytes.add(block * 2 * HALF_BYTES);
                    let low = low.wrapping_add(block * WEIGHT_BYTES);
                    multiply_block::<TEN>(values.add(block * WEIGHT_BYTES), low, bytes, sums(block));
                }
                if block > 0 {
                    let block = block - 1;
                    self.add_block::<TEN>(block, sums(block), parts.add(block % PARTS * SIDE * LANES));
                }
            }
        }
    }

    /// Scales the sums of a block and adds them to a part.
    ///
    /// # Safety
    /// As [`Product::run`]; the block is in range.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn add_block<const TEN: bool>(self, block: usize, sums: *const f32, part: *mut f32) {
        let scales =
            &self.weight.double_scales[(self.panel * self.weight.num_blocks + block) * LANES..][..LANES];
        // SAFETY: 16 scales are half a register long; tiles have 16 rows of a register; 16 half steps are there.
        unsafe {
            let scales = _mm512_cvtph_ps(_mm256_loadu_si256(scales.as_ptr().cast()));
            let half_steps = self.half_steps.add(block * SIDE);
            let load = |tile: usize, token: usize| {
                _mm512_load_si512(sums.add(tile * TILE_BYTES / 4 + token * LANES).cast())
            };
            for token in 0..self.count {
                let (mut upper, mut lower) = (load(0, token), load(1, token));
                if TEN {
                    upper = _mm512_add_epi32(_mm512_slli_epi32::<2>(upper), load(2, token));
                    lower = _mm512_add_epi32(_mm512_slli_epi32::<2>(lower), load(3, token));
                }
                let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), lower);
                let scale = _mm512_mul_ps(scales, _mm512_set1_ps(*half_steps.add(token)));
                let part = part.add(token * LANES);
                let added = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), scale, _mm512_load_ps(part));
                _mm512_store_ps(part, added);
            }
        }
    }
}

/// The products of a block: upper and lower bytes of tokens with weights and their low bits.
///
/// # Safety
/// As [`Product::run`]; the block of each is there.
#[inline(always)]
unsafe fn multiply_block<const TEN: bool>(
    values: *const u8,
    low: *const u8,
    bytes: *const u8,
    sums: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        tile_load!(4, bytes, BLOCK);
        tile_load!(5, bytes.add(HALF_BYTES), BLOCK);
        tile_load!(6, values, TILE_ROW_BYTES);
        tile_zero!(0);
        tile_dot_i8!(0, 4, 6);
        tile_zero!(1);
        tile_dot_u8!(1, 5, 6);
        if TEN {
            tile_load!(7, low, TILE_ROW_BYTES);
            tile_zero!(2);
            tile_dot_i8!(2, 4, 7);
            tile_zero!(3);
            tile_dot_u8!(3, 5, 7);
        }
        tile_store!(0, sums, TILE_ROW_BYTES);
        tile_store!(1, sums.add(TILE_BYTES / 4), TILE_ROW_BYTES);
        if TEN {
            tile_store!(2, sums.add(2 * TILE_BYTES / 4), TILE_ROW_BYTES);
            tile_store!(3, sums.add(3 * TILE_BYTES / 4), TILE_ROW_BYTES);
        }
    }
}

/// The low bits of a panel as bytes, in the order of [`Int8View::values`].
#[target_feature(enable = "avx512f")]
fn unpack_low_bits(weight: Int8View, panel: usize, to: &mut [f32]) {
    let blocks = &weight.low_bits[panel * weight.num_blocks * 2 * LANES..][..weight.num_blocks * 2 * LANES];
    for (bits, to) in blocks.chunks_exact(2 * LANES).zip(to.chunks_exact_mut(WEIGHT_BYTES / 4)) {
        for (dword, to) in to.chunks_exact_mut(LANES).enumerate() {
            // SAFETY: 16 dwords fill a register.
            unsafe {
                let bits = _mm512_loadu_si512(bits[dword / 4 * LANES..].as_ptr().cast());
                let bits = _mm512_srlv_epi32(bits, _mm512_set1_epi32(4 * (dword as i32 % 4)));
                // Two pairs in each half: the first stays, the second moves up a byte.
                let first = _mm512_and_si512(bits, _mm512_set1_epi32(0x0003_0003));
                let second = _mm512_and_si512(_mm512_slli_epi32::<6>(bits), _mm512_set1_epi32(0x0300_0300));
                _mm512_storeu_si512(to.as_mut_ptr().cast(), _mm512_or_si512(first, second));
            }
        }
    }
}

/// `(p[0] + p[2]) + (p[1] + p[3])` of a token whose first part begins `parts`, for the first rows of a panel.
#[inline]
#[target_feature(enable = "avx512f")]
fn merge(parts: &[f32], out: &mut [f32]) {
    let part = |part: usize| {
        let lanes = &parts[part * SIDE * LANES..][..LANES];
        // SAFETY: 16 values fill a register.
        unsafe { _mm512_loadu_ps(lanes.as_ptr()) }
    };
    let sum = _mm512_add_ps(_mm512_add_ps(part(0), part(2)), _mm512_add_ps(part(1), part(3)));
    let mask = u16::MAX >> (LANES - out.len());
    // SAFETY: the mask keeps to what there is of `out`.
    unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, sum) };
}
