//! A panel with tiles of four to six tokens. Their sums, two registers a token, leave room for those of the block before, which
//! are scaled while these are multiplied: scaled between blocks they would wait for the last products, and all that follows
//! would wait behind them.

use std::arch::asm;
use std::arch::x86_64::*;

use super::super::panel::{ROWS, WIDTH};
use super::super::wide::{PARTS, Tiles};
use super::super::{LANES, PAIRS};

/// As [`Unit::merge`](super::super::Unit::merge).
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn merge(parts: &[f32], out: &mut [f32]) {
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

/// As [`Unit::add_tiles`](super::super::Unit::add_tiles).
///
/// # Safety
/// AVX-512 F, BW, DQ, VL and VNNI; panel and tokens hold the blocks; `parts` begin on a cache line.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) unsafe fn add(tiles: Tiles, parts: &mut [f32]) {
    // SAFETY: the caller's promise.
    unsafe {
        match tiles.len {
            4 => add_tiles::<4>(tiles, parts),
            5 => add_tiles::<5>(tiles, parts),
            6 => add_tiles::<6>(tiles, parts),
            len => unreachable!("a tile of {len} tokens"),
        }
    }
}

/// Adds the products of tiles of `T` tokens to their `parts`, `[tiles, tokens, 4, 32 rows]`.
///
/// # Safety
/// As [`add`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn add_tiles<const T: usize>(mut tiles: Tiles, parts: &mut [f32]) {
    assert_eq!(parts.len(), tiles.count() * T * PARTS * ROWS);
    let parts = parts.as_mut_ptr();
    let mut last = Unscaled::<T>::zeros(&tiles, parts);
    for tile in 0..tiles.count() {
        let (pairs, half_steps) = tiles.tile(tile);
        for (block, at) in tiles.blocks.clone().enumerate() {
            // SAFETY: the panel and the tile hold every block; there are parts for every tile.
            unsafe {
                last = Unscaled {
                    sums: block_sums(tiles.panel.pairs(block), pairs.add(at * PAIRS * T), &last),
                    scales: tiles.panel.scales(at),
                    half_steps: half_steps.add(at * T),
                    parts: parts.add((tile * T * PARTS + block % PARTS) * ROWS),
                };
            }
        }
        tiles.prefetch_share();
    }
    for t in 0..T {
        // SAFETY: as above.
        unsafe { last.add(t) };
    }
}

/// Sums of a block that are not scaled yet, what they are scaled by, and what they are added to.
struct Unscaled<const T: usize> {
    sums: [[__m512i; WIDTH]; T],
    /// `[32 rows]`.
    scales: *const f32,
    /// `[T tokens]`.
    half_steps: *const f32,
    /// `[T tokens, 4, 32 rows]`, from the block's own of the four.
    parts: *mut f32,
}

impl<const T: usize> Unscaled<T> {
    /// Zeros, which go where the sums of the first block will: they change nothing that is finite.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn zeros(tiles: &Tiles, parts: *mut f32) -> Self {
        let (_, half_steps) = tiles.tile(0);
        Self {
            sums: [[_mm512_setzero_si512(); WIDTH]; T],
            scales: tiles.panel.scales(tiles.blocks.start),
            half_steps: half_steps.wrapping_add(tiles.blocks.start * T),
            parts,
        }
    }

    /// Scales and adds the sums of token `t`. `vscalefps` leaves the units that multiply alone, on AMD's processors.
    ///
    /// # Safety
    /// Scales, half steps and parts are there, the first and the last from a cache line on.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn add(&self, t: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let exponent = _mm512_getexp_ps(_mm512_set1_ps(*self.half_steps.add(t)));
            let part = self.parts.add(t * PARTS * ROWS);
            let sum = |w: usize| {
                let scale = _mm512_scalef_ps(_mm512_load_ps(self.scales.add(w * LANES)), exponent);
                let part = _mm512_load_ps(part.add(w * LANES));
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(self.sums[t][w]), scale, part)
            };
            let sums = [sum(0), sum(1)];
            _mm512_store_ps(part, sums[0]);
            _mm512_store_ps(part.add(LANES), sums[1]);
        }
    }
}

/// Exact sums of one block: `weights` `[16 pairs, 32 rows]` with `x` `[16 pairs, T tokens]`. Scales those of the `last` block
/// meanwhile.
///
/// # Safety
/// AVX-512 VNNI; `weights` starts on a cache line; as [`Unscaled::add`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn block_sums<const T: usize>(
    weights: *const i32,
    x: *const i32,
    last: &Unscaled<T>,
) -> [[__m512i; WIDTH]; T] {
    /// Pairs before the first of the last block's sums is scaled: its products are under way until then.
    const WAIT: usize = 2;
    /// Pairs from one token's sums to the next one's.
    const EVERY: usize = 2;
    let mut sums = [[_mm512_setzero_si512(); WIDTH]; T];
    // Written out, and in assembly: the compiler would load all pairs first and keep what no register holds in memory.
    macro_rules! pairs {
        ($($pair:literal)*) => {$({
            const PAIR: usize = $pair;
            add_pair::<T, PAIR>(&mut sums, weights, x);
            if let Some(nth) = PAIR.checked_sub(WAIT) && nth % EVERY == 0 && nth / EVERY < T {
                last.add(nth / EVERY);
            }
        })*};
    }
    // SAFETY: the caller's promise.
    unsafe {
        pairs!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
    sums
}

/// Adds the products of one pair.
///
/// # Safety
/// As [`block_sums`].
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_pair<const T: usize, const PAIR: usize>(
    sums: &mut [[__m512i; WIDTH]; T],
    weights: *const i32,
    x: *const i32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let (w0, w1): (__m512i, __m512i);
        asm!(
            "vmovaps {w0}, [{weights} + {at}]",
            "vmovaps {w1}, [{weights} + {at} + 64]",
            weights = in(reg) weights,
            at = const PAIR * ROWS * size_of::<i32>(),
            w0 = out(zmm_reg) w0,
            w1 = out(zmm_reg) w1,
            options(readonly, nostack, preserves_flags),
        );
        for (t, [sum0, sum1]) in sums.iter_mut().enumerate() {
            let _pair: __m512i;
            asm!(
                "vbroadcastss {pair}, dword ptr [{x} + {at}]",
                "vpdpwssd {sum0}, {w0}, {pair}",
                "vpdpwssd {sum1}, {w1}, {pair}",
                x = in(reg) x.add(t),
                at = const PAIR * T * size_of::<i32>(),
                pair = out(zmm_reg) _pair,
                w0 = in(zmm_reg) w0,
                w1 = in(zmm_reg) w1,
                sum0 = inout(zmm_reg) *sum0,
                sum1 = inout(zmm_reg) *sum1,
                options(readonly, nostack, preserves_flags),
            );
        }
    }
}
