//! Queries, keys, values and powers as tiles.

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use half::bf16;

use super::super::CHUNK_LEN;
use super::super::chunk::Chunk;
use super::super::tile::TileInput;
use super::{DEPTH, KEY_TILES, SIDE, TILE_LEN};
use crate::cpu::{Scratch, transpose_16x16};

/// The upper 16 bits of 32.
const UPPER_HALF: i32 = 0xffff_0000_u32.cast_signed();

/// Sixteen numbers each of `even` and `odd` as bf16, side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn pairs(even: __m512, odd: __m512) -> __m512i {
    // Where the mask has ones from the first, elsewhere from the second.
    const SELECT: i32 = 0xca;
    let upper = _mm512_srli_epi32::<16>(rounded(even));
    _mm512_ternarylogic_epi32::<SELECT>(_mm512_set1_epi32(UPPER_HALF), rounded(odd), upper)
}

/// Numbers whose upper halves are `x` rounded to bf16, from the middle away from zero; NaNs of arithmetic stay such.
#[inline]
#[target_feature(enable = "avx512f")]
fn rounded(x: __m512) -> __m512i {
    _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000))
}

/// Packs the queries of rows `row` to `row + 16`, scaled for powers of two: tiles of 16 pairs of dimensions and 16 rows,
/// one after the other. Rows past the last one are zero.
///
/// # Safety
/// AVX-512F and BW; `head_dim` is a multiple of 32.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn queries(input: &TileInput<bf16>, kv_head: usize, row: usize, to: &mut [f32]) {
    let head_dim = input.op.shape.head_dim;
    let scale = _mm512_set1_ps(input.op.layer.scale * LOG2_E);
    // Upper halves of 32 numbers.
    let odd_words: [u16; 32] = std::array::from_fn(|at| 2 * at as u16 + 1);
    for depth in 0..head_dim / DEPTH {
        let mut rows = [_mm512_setzero_si512(); SIDE];
        for (at, words) in rows.iter_mut().enumerate().take(input.num_rows() - row) {
            let (_, from) = input.head_and_query(kv_head, row + at);
            let q = input.q[from + depth * DEPTH..][..DEPTH].as_ptr();
            // SAFETY: 32 values; an array of 64 bytes.
            unsafe {
                let odd_words = _mm512_loadu_si512(odd_words.as_ptr().cast());
                let first = rounded(_mm512_mul_ps(_mm512_loadu_ps(q), scale));
                let second = rounded(_mm512_mul_ps(_mm512_loadu_ps(q.add(SIDE)), scale));
                *words = _mm512_permutex2var_epi16(first, odd_words, second);
            }
        }
        let to = &mut to[depth * TILE_LEN..][..TILE_LEN];
        for (pairs, to) in transpose_16x16(rows).into_iter().zip(to.chunks_exact_mut(SIDE)) {
            // SAFETY: room for a register.
            unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs) };
        }
    }
}

/// Keys of a chunk and one key-value head, row by row, and its values, transposed.
pub(super) struct FetchedTiles {
    /// Where tiles of keys begin, and the bytes from one key to the next.
    key_tiles: ([*const u8; KEY_TILES], usize),
    /// `[CHUNK_LEN, head_dim]` of bf16.
    keys: Scratch,
    /// Tiles of 16 dimensions and 32 keys, `[STEPS, head_dim / 16]`.
    values: Scratch,
}

impl FetchedTiles {
    /// Room for heads of `head_dim` values.
    pub(super) fn new(head_dim: usize) -> Self {
        let len = CHUNK_LEN * head_dim * size_of::<bf16>() / size_of::<f32>();
        let (mut keys, mut values) = (Scratch::new(len), Scratch::new(len));
        keys.fill(0.0);
        values.fill(0.0);
        Self { key_tiles: super::NO_KEYS, keys, values }
    }

    /// Tiles of the keys that were fetched last, as [`Products`](super::Products) takes them.
    pub(super) fn keys(&self) -> ([*const u8; KEY_TILES], usize) {
        self.key_tiles
    }

    pub(super) fn values(&self) -> *const u8 {
        self.values.as_ptr().cast()
    }

    /// Fetches the steps of which some row sees something for `num_blocks` blocks of rows. Values that nobody sees in
    /// them are zero. Keys that one block takes are left in the cache, if a tile of them lies in one of its blocks.
    ///
    /// # Safety
    /// AVX-512F and BW; `head_dim` is a multiple of 32.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) unsafe fn fetch(
        &mut self,
        input: &TileInput<bf16>,
        chunk: &Chunk,
        kv_head: usize,
        num_blocks: usize,
    ) {
        let (shape, cache) = (input.op.shape, input.cache);
        let leaves_keys = num_blocks == 1 && shape.block_size.is_multiple_of(SIDE);
        let place = |slot: usize| cache.place(slot, kv_head);
        let visible = chunk.visible_keys();
        let mut places = [None; CHUNK_LEN];
        for key in visible.clone() {
            places[key] = Some(place(chunk.slots[key]));
        }
        let (stride, tiles): (_, [_; KEY_TILES]) = match leaves_keys {
            true => {
                let keys = |slot| cache.step_of_keys(slot, kv_head, shape.head_dim).as_ptr().cast();
                let tile = |tile: usize| keys(chunk.slots[tile * SIDE]);
                (cache.slot_stride, std::array::from_fn(tile))
            }
            false => {
                let tile = |tile: usize| self.keys[tile * SIDE * shape.head_dim / 2..].as_ptr().cast();
                (shape.head_dim, std::array::from_fn(tile))
            }
        };
        self.key_tiles = (tiles, stride * size_of::<bf16>());
        for step in visible.start / DEPTH..visible.end.div_ceil(DEPTH) {
            let places = &places[step * DEPTH..][..DEPTH];
            for dim in (0..shape.head_dim).step_by(DEPTH) {
                if !leaves_keys {
                    let to = &mut self.keys[(step * DEPTH * shape.head_dim + dim) / 2..];
                    for (place, to) in places.iter().zip(to.chunks_mut(shape.head_dim / 2)) {
                        let key = some_of(cache.k, *place, dim);
                        // SAFETY: room for a register.
                        unsafe { _mm512_store_si512(to[..SIDE].as_mut_ptr().cast(), key) };
                    }
                }
                let tile = step * (shape.head_dim / SIDE) + dim / SIDE;
                transpose_values(cache.v, places, dim, &mut self.values[tile * TILE_LEN..][..2 * TILE_LEN]);
            }
        }
    }
}

/// Values `dim` to `dim + 32` of the key or value at `place`, zeros without one.
#[inline]
#[target_feature(enable = "avx512f")]
fn some_of(cache: &[bf16], place: Option<usize>, dim: usize) -> __m512i {
    match place {
        // SAFETY: 32 values fill a register.
        Some(place) => unsafe { _mm512_loadu_si512(cache[place + dim..][..DEPTH].as_ptr().cast()) },
        None => _mm512_setzero_si512(),
    }
}

/// Writes dimensions `dim` to `dim + 32` of 32 values as the rows of two tiles.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose_values(cache: &[bf16], places: &[Option<usize>], dim: usize, to: &mut [f32]) {
    // Of each eight dimensions the first four, then the others.
    for half in 0..2 {
        let mut pairs = [_mm512_setzero_si512(); SIDE];
        for (to, places) in pairs.iter_mut().zip(places.chunks_exact(2)) {
            let (even, odd) = (some_of(cache, places[0], dim), some_of(cache, places[1], dim));
            *to = match half {
                0 => _mm512_unpacklo_epi16(even, odd),
                _ => _mm512_unpackhi_epi16(even, odd),
            };
        }
        for (at, pairs) in transpose_16x16(pairs).into_iter().enumerate() {
            let dim = at / 4 * 8 + 4 * half + at % 4;
            // SAFETY: room for a register.
            unsafe { _mm512_store_si512(to[dim * SIDE..][..SIDE].as_mut_ptr().cast(), pairs) };
        }
    }
}
