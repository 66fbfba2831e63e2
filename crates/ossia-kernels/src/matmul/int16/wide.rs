//! Many tokens: 32 rows are unpacked once, then multiplied with six to twelve tokens at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use super::panel::{Panel, PanelSource, ROWS, WIDTH};
use super::{BLOCK, GROUP, Int16Rows, LANES, PAIRS, TILE, add_products};
use crate::cpu::Scratch;

/// Partial sums of a row, by block.
const PARTS: usize = GROUP / BLOCK;

/// Partial sums of a token with the rows of a panel.
type Parts = [[[f32; LANES]; WIDTH]; PARTS];

/// As [`super::multiply`].
///
/// # Safety
/// As [`super::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply<S: PanelSource>(weight: S, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    let width = rows.len();
    let mut panel = Panel::new::<S>(x.num_groups());
    let mut parts = Scratch::new(x.num_tokens() * PARTS * ROWS);
    for first in (0..width).step_by(ROWS) {
        let count = ROWS.min(width - first);
        parts.fill(0.0);
        // SAFETY: the caller's promise; the rows are in range.
        unsafe { panel.begin(weight, rows.start + first..rows.start + first + count) };
        for group in (0..x.num_groups()).step_by(S::GROUPS) {
            let groups = group..x.num_groups().min(group + S::GROUPS);
            // SAFETY: the caller's promise; rows and groups are in range.
            unsafe {
                panel.fill(weight, groups.clone());
                for tokens in x.tiles() {
                    let parts = &mut parts[tokens.start * PARTS * ROWS..][..tokens.len() * PARTS * ROWS];
                    add_tile(&panel, groups.clone(), x, tokens.clone(), parts);
                }
            }
        }
        for (t, parts) in parts.chunks_exact(PARTS * ROWS).enumerate() {
            merge(parts, &mut out[t * width + first..][..count]);
        }
    }
}

/// `(p[0] + p[2]) + (p[1] + p[3])` of a token's parts, for the first rows of a panel.
#[inline]
#[target_feature(enable = "avx512f")]
fn merge(parts: &[f32], out: &mut [f32]) {
    assert!(parts.len() == PARTS * ROWS && out.len() <= ROWS);
    for (half, out) in out.chunks_mut(LANES).enumerate() {
        // SAFETY: the parts are whole registers; the mask keeps to what there is of `out`.
        unsafe {
            let from = parts.as_ptr().add(half * LANES);
            let p02 = _mm512_add_ps(_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(2 * ROWS)));
            let p13 = _mm512_add_ps(_mm512_loadu_ps(from.add(ROWS)), _mm512_loadu_ps(from.add(3 * ROWS)));
            let mask = u16::MAX >> (LANES - out.len());
            _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, _mm512_add_ps(p02, p13));
        }
    }
}

/// Adds the products of a panel that holds `groups` with a tile of tokens to their `parts`.
///
/// # Safety
/// As [`Tile::add`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_tile(
    panel: &Panel,
    groups: Range<usize>,
    x: &Int16Rows,
    tokens: Range<usize>,
    parts: &mut [f32],
) {
    let (pairs, half_steps) = x.tile(tokens.start);
    let num_blocks = groups.len() * PARTS;
    let tile = Tile { panel, num_blocks, first_block: groups.start * PARTS, pairs, half_steps };
    // SAFETY: the caller's promise.
    unsafe {
        match tokens.len() {
            6 => tile.add::<6>(parts),
            7 => tile.add::<7>(parts),
            8 => tile.add::<8>(parts),
            9 => tile.add::<9>(parts),
            10 => tile.add::<10>(parts),
            11 => tile.add::<11>(parts),
            TILE => tile.add::<TILE>(parts),
            len => unreachable!("a tile of {len} tokens"),
        }
    }
}

/// Some blocks of a panel and a tile of tokens.
struct Tile<'a> {
    panel: &'a Panel,
    num_blocks: usize,
    /// Where the panel's blocks lie in the rows; a multiple of the number of parts.
    first_block: usize,
    /// `[blocks of the rows, 16 pairs, T tokens]`.
    pairs: *const i32,
    /// `[blocks of the rows, T tokens]`.
    half_steps: *const f32,
}

impl Tile<'_> {
    /// Adds the products to `parts`, [`Parts`] of `T` tokens.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ, VL and VNNI; panel and tokens hold the blocks, the tile has `T` tokens.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn add<const T: usize>(&self, parts: &mut [f32]) {
        assert_eq!(parts.len(), T * size_of::<Parts>() / size_of::<f32>());
        let parts = parts.as_mut_ptr().cast::<Parts>();
        for block in 0..self.num_blocks {
            let at = self.first_block + block;
            // SAFETY: the panel and the tile hold every block; the parts are those of `T` tokens.
            unsafe {
                let sums = block_sums::<T>(self.panel.pairs(block), self.pairs.add(at * PAIRS * T));
                let scales = self.panel.scales(at);
                let scales = [_mm512_load_ps(scales), _mm512_load_ps(scales.add(LANES))];
                let half_steps = self.half_steps.add(at * T);
                for (t, sums) in sums.into_iter().enumerate() {
                    let half_step = _mm512_set1_ps(*half_steps.add(t));
                    for w in 0..WIDTH {
                        let part = (&raw mut (*parts.add(t))[block % PARTS][w]).cast::<f32>();
                        let scale = _mm512_mul_ps(scales[w], half_step);
                        let sum = _mm512_cvtepi32_ps(sums[w]);
                        _mm512_store_ps(part, _mm512_fmadd_ps(sum, scale, _mm512_load_ps(part)));
                    }
                }
            }
        }
    }
}

/// Exact sums of one block: `weights` `[16 pairs, 32 rows]` with `x` `[16 pairs, T tokens]`.
///
/// # Safety
/// AVX-512 VNNI; `weights` starts on a cache line.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block_sums<const T: usize>(weights: *const i32, x: *const i32) -> [[__m512i; WIDTH]; T] {
    let mut sums = [[_mm512_setzero_si512(); WIDTH]; T];
    for pair in 0..PAIRS {
        // SAFETY: the caller's promise.
        unsafe {
            let w = weights.add(pair * ROWS);
            let w = [_mm512_load_si512(w.cast()), _mm512_load_si512(w.add(LANES).cast())];
            for (t, sums) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi32(*x.add(pair * T + t));
                sums[0] = add_products(sums[0], w[0], x);
                sums[1] = add_products(sums[1], w[1], x);
            }
        }
    }
    sums
}
