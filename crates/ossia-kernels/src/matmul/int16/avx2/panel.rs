//! Unpacks weights into a panel.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::panel::{BLOCKS, PanelSource, ROWS};
use super::super::{BLOCK, GROUP, LANES, Mxfp4Rows, PAIRS};
use super::{Avx2, WIDTH, decode, exp2_of_e8m0, four_scales, widen, widen_with};
use crate::cpu::transpose_8x8;
use crate::weight::Int8View;

impl<const VNNI: bool> PanelSource<Avx2<VNNI>> for Mxfp4Rows<'_> {
    const GROUPS: usize = 2;

    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { mxfp4_scales(self, rows, to) }
    }

    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { mxfp4_codes(self, rows, group, to) }
    }
}

impl<const VNNI: bool> PanelSource<Avx2<VNNI>> for Int8View<'_> {
    const GROUPS: usize = 2;

    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { int8_scales(self, rows.start / LANES, to) }
    }

    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { int8_group(self, rows.start / LANES, group, to) }
    }
}

/// The scales of a panel of 16 rows in 8 or 10 bits.
///
/// # Safety
/// As [`PanelSource::fill_scales`].
#[target_feature(enable = "avx2,f16c")]
unsafe fn int8_scales(weight: Int8View, source: usize, to: &mut [f32]) {
    let scales = weight.double_scales[source * weight.num_blocks * LANES..].chunks_exact(WIDTH);
    let mut to = to.chunks_mut(ROWS);
    let mut scales = scales.take(weight.num_blocks * LANES / WIDTH);
    for to in to.by_ref().take(weight.num_blocks) {
        for (to, scales) in to[..LANES].chunks_exact_mut(WIDTH).zip(&mut scales) {
            // SAFETY: eight scales are half a register long, their place a whole one.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(scales.as_ptr().cast())))
            };
        }
    }
    to.for_each(|to| to[..LANES].fill(0.0));
}

/// Unpacks one group of a panel of 16 rows in 8 or 10 bits.
///
/// # Safety
/// As [`PanelSource::fill_group`].
#[target_feature(enable = "avx2")]
unsafe fn int8_group(weight: Int8View, source: usize, group: usize, to: &mut [f32]) {
    for (block, to) in to.chunks_mut(PAIRS * ROWS).enumerate() {
        let from = group * BLOCKS + block;
        if from >= weight.num_blocks {
            to.chunks_mut(ROWS).for_each(|pair| pair[..LANES].fill(0.0));
            continue;
        }
        let from = source * weight.num_blocks + from;
        let dwords = weight.values[from * LANES * BLOCK..][..LANES * BLOCK].chunks_exact(4 * LANES);
        let mut low_bits = weight.low_bits.chunks_exact(LANES).skip(2 * from);
        let mut low = None;
        for (dword, bytes) in dwords.enumerate() {
            if dword % 4 == 0 {
                low = low_bits.next().map(|low| load_halves(low));
            }
            for (half, bytes) in bytes.chunks_exact(4 * WIDTH).enumerate() {
                // SAFETY: bytes and places are a register long.
                unsafe {
                    let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
                    let pairs = match &mut low {
                        Some(low) => widen_with(bytes, &mut low[half]),
                        None => widen(bytes),
                    };
                    for (odd, pair) in pairs.into_iter().enumerate() {
                        let place = &mut to[(2 * dword + odd) * ROWS + half * WIDTH..][..WIDTH];
                        _mm256_storeu_si256(place.as_mut_ptr().cast(), pair);
                    }
                }
            }
        }
    }
}

/// 16 dwords.
#[inline]
#[target_feature(enable = "avx2")]
fn load_halves(dwords: &[u32]) -> [__m256i; 2] {
    assert_eq!(dwords.len(), LANES);
    // SAFETY: eight dwords fill a register.
    [0, WIDTH].map(|first| unsafe { _mm256_loadu_si256(dwords[first..].as_ptr().cast()) })
}

/// Unpacks the codes of one group of 16 rows.
///
/// # Safety
/// As [`PanelSource::fill_group`].
#[target_feature(enable = "avx2")]
unsafe fn mxfp4_codes(weight: Mxfp4Rows, rows: Range<usize>, group: usize, to: &mut [f32]) {
    /// Bytes of a group of a row, and of the two blocks that fill a register.
    const BYTES: usize = GROUP / 2;
    const HALF: usize = BYTES / 2;
    let row_len = weight.num_blocks * BLOCK / 2;
    let first = group * BYTES;
    let len = BYTES.min(row_len - first);
    for half_rows in 0..LANES / WIDTH {
        let mut padded = [[0u8; BYTES]; WIDTH];
        let codes: [*const u8; WIDTH] = std::array::from_fn(|lane| {
            // Past the last row the last one is taken again.
            let row = rows.start + (half_rows * WIDTH + lane).min(rows.len() - 1);
            let codes = &weight.blocks[row * row_len + first..][..len];
            if len == BYTES {
                return codes.as_ptr();
            }
            padded[lane][..len].copy_from_slice(codes);
            padded[lane].as_ptr()
        });
        for part in 0..BYTES / HALF {
            // SAFETY: a register of codes is there.
            let lines = codes.map(|codes| unsafe { _mm256_loadu_si256(codes.add(part * HALF).cast()) });
            for (dword, codes) in transpose_8x8(lines).into_iter().enumerate() {
                let (block, j) = (part * 2 + dword / 4, dword % 4);
                let [[even_low, even_high], [odd_low, odd_high]] = decode(codes).map(|bytes| widen(bytes));
                let by_shift = [even_low, odd_low, even_high, odd_high];
                for (s, weights) in by_shift.into_iter().enumerate() {
                    let pair = block * PAIRS + s * 4 + j;
                    let place = &mut to[pair * ROWS + half_rows * WIDTH..][..WIDTH];
                    // SAFETY: a place is a register long.
                    unsafe { _mm256_storeu_si256(place.as_mut_ptr().cast(), weights) };
                }
            }
        }
    }
}

/// The scales of up to 16 rows; those past the end of the rows are 1.
///
/// # Safety
/// As [`PanelSource::fill_scales`].
#[target_feature(enable = "avx2")]
unsafe fn mxfp4_scales(weight: Mxfp4Rows, rows: Range<usize>, to: &mut [f32]) {
    for half_rows in 0..LANES / WIDTH {
        let scales: [&[u8]; WIDTH] = std::array::from_fn(|lane| {
            // Past the last row the last one is taken again.
            let row = rows.start + (half_rows * WIDTH + lane).min(rows.len() - 1);
            &weight.scales[row * weight.num_blocks..][..weight.num_blocks]
        });
        for (group, to) in to.chunks_mut(BLOCKS * ROWS).enumerate() {
            let four = scales.map(|scales| i32::from_le_bytes(four_scales(&scales[BLOCKS * group..])));
            // SAFETY: eight dwords fill a register.
            let mut four = unsafe { _mm256_loadu_si256(four.as_ptr().cast()) };
            for to in to.chunks_mut(ROWS) {
                let scales = exp2_of_e8m0(_mm256_and_si256(four, _mm256_set1_epi32(255)));
                let place = &mut to[half_rows * WIDTH..][..WIDTH];
                // SAFETY: a place is a register long.
                unsafe { _mm256_storeu_ps(place.as_mut_ptr(), scales) };
                four = _mm256_srli_epi32::<8>(four);
            }
        }
    }
}
