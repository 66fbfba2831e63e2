//! Many tokens: 32 rows are unpacked once, then multiplied with up to twelve tokens at a time.

use std::arch::x86_64::*;
use std::ops::Range;

use super::panel::{PAIRS, Panel, ROWS, WIDTH};
use super::{BLOCK, GROUP, Int16Rows, LANES, Mxfp4Rows, PLANES};

/// Most tokens of a register tile: their sums, two registers each, leave room for weights and activations.
const TILE: usize = 12;
/// Partial sums of a row, by block.
const PARTS: usize = GROUP / BLOCK;

/// As [`super::multiply`].
///
/// # Safety
/// As [`super::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn multiply(weight: Mxfp4Rows, rows: Range<usize>, x: &Int16Rows, out: &mut [f32]) {
    let (width, num_tokens) = (rows.len(), x.num_tokens());
    let mut panel = Panel::new(weight.num_blocks);
    let num_tiles = num_tokens.div_ceil(TILE);
    for first in (0..width).step_by(ROWS) {
        let count = ROWS.min(width - first);
        // SAFETY: the caller's promise; rows and tokens are in range.
        unsafe { panel.fill(weight, rows.start + first, count) };
        // Tiles of nearly the same size: a tile of one token waits for its own sums.
        for tile in 0..num_tiles {
            let tokens = num_tokens * tile / num_tiles..num_tokens * (tile + 1) / num_tiles;
            // SAFETY: as above.
            let sums = unsafe { tile_of(&panel, x, tokens.clone()) };
            for (t, sums) in tokens.zip(&sums) {
                out[t * width + first..][..count].copy_from_slice(&sums[..count]);
            }
        }
    }
}

/// # Safety
/// As [`tile`], for the number of tokens in `tokens`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile_of(panel: &Panel, x: &Int16Rows, tokens: Range<usize>) -> [[f32; ROWS]; TILE] {
    // SAFETY: the caller's promise.
    unsafe {
        match tokens.len() {
            1 => tile::<1>(panel, x, tokens.start),
            2 => tile::<2>(panel, x, tokens.start),
            3 => tile::<3>(panel, x, tokens.start),
            4 => tile::<4>(panel, x, tokens.start),
            5 => tile::<5>(panel, x, tokens.start),
            6 => tile::<6>(panel, x, tokens.start),
            7 => tile::<7>(panel, x, tokens.start),
            8 => tile::<8>(panel, x, tokens.start),
            9 => tile::<9>(panel, x, tokens.start),
            10 => tile::<10>(panel, x, tokens.start),
            11 => tile::<11>(panel, x, tokens.start),
            _ => tile::<TILE>(panel, x, tokens.start),
        }
    }
}

/// Products of the panel's rows with `T` tokens from `first`.
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI; the tokens are there and as long as the panel's rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile<const T: usize>(panel: &Panel, x: &Int16Rows, first: usize) -> [[f32; ROWS]; TILE] {
    let pairs: [*const i32; T] = std::array::from_fn(|t| x.pairs(first + t));
    let half_steps: [*const f32; T] = std::array::from_fn(|t| x.half_steps(first + t));
    let mut parts = [[[_mm512_setzero_ps(); WIDTH]; T]; PARTS];
    for block in 0..panel.num_blocks() {
        let (group, part) = (block / PARTS, block % PARTS);
        // SAFETY: the panel and the packed rows hold every block.
        unsafe {
            let at = group * PLANES * LANES + 4 * part;
            let sums = block_sums(panel.pairs(block), pairs.map(|pairs| pairs.add(at)));
            let scales: [__m512; WIDTH] =
                std::array::from_fn(|w| _mm512_load_ps(panel.scales(block).add(w * LANES)));
            for (t, sums) in sums.into_iter().enumerate() {
                let half_step = _mm512_set1_ps(*half_steps[t].add(group * LANES + 4 * part));
                for w in 0..WIDTH {
                    let scale = _mm512_mul_ps(scales[w], half_step);
                    let parts = &mut parts[part][t][w];
                    *parts = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[w]), scale, *parts);
                }
            }
        }
    }
    let mut out = [[0f32; ROWS]; TILE];
    for (t, out) in out.iter_mut().take(T).enumerate() {
        for w in 0..WIDTH {
            let p02 = _mm512_add_ps(parts[0][t][w], parts[2][t][w]);
            let p13 = _mm512_add_ps(parts[1][t][w], parts[3][t][w]);
            // SAFETY: a token's output has two registers.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(w * LANES), _mm512_add_ps(p02, p13)) };
        }
    }
    out
}

/// Exact sums of one block: `weights` `[16 pairs, 32 rows]` with `T` tokens, whose planes lie 16 pairs apart.
///
/// # Safety
/// AVX-512 VNNI; `weights` starts on a cache line.
#[inline(always)]
unsafe fn block_sums<const T: usize>(weights: *const i32, x: [*const i32; T]) -> [[__m512i; WIDTH]; T] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[_mm512_setzero_si512(); WIDTH]; T];
        for pair in 0..PAIRS {
            let w: [__m512i; WIDTH] = std::array::from_fn(|w| {
                _mm512_load_si512(weights.add(pair * ROWS + w * LANES).cast())
            });
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = _mm512_set1_epi32(*x.add(pair % PLANES * LANES + pair / PLANES));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_dpwssd_epi32(*sum, w, x);
                }
            }
        }
        sums
    }
}
