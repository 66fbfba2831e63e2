//! Unpacks weights into a panel.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::panel::{BLOCKS, PanelSource, ROWS};
use super::super::{BLOCK, GROUP, LANES, Mxfp4Rows, PAIRS, PLANES};
use super::Avx512;
use super::narrow::{exp2_of_e8m0, load_weights};
use super::narrow_int8::{widen, widen_with};
use crate::cpu::transpose_16x16;
use crate::weight::Int8View;

impl PanelSource<Avx512> for Mxfp4Rows<'_> {
    const GROUPS: usize = 3;

    #[inline]
    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { mxfp4_scales(self, rows, to) }
    }

    #[inline]
    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { mxfp4_codes(self, rows, group, to) }
    }
}

impl PanelSource<Avx512> for Int8View<'_> {
    const GROUPS: usize = 2;

    #[inline]
    unsafe fn fill_scales(self, rows: Range<usize>, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { int8_scales(self, rows.start / LANES, to) }
    }

    #[inline]
    unsafe fn fill_group(self, rows: Range<usize>, group: usize, to: &mut [f32]) {
        // SAFETY: the caller's promise.
        unsafe { int8_group(self, rows.start / LANES, group, to) }
    }
}

/// The scales of a panel of 16 rows in 8 or 10 bits.
///
/// # Safety
/// As [`PanelSource::fill_scales`].
#[target_feature(enable = "avx512f")]
unsafe fn int8_scales(weight: Int8View, source: usize, to: &mut [f32]) {
    let scales = weight.double_scales[source * weight.num_blocks * LANES..].chunks_exact(LANES);
    let mut to = to.chunks_mut(ROWS);
    for (scales, to) in scales.take(weight.num_blocks).zip(&mut to) {
        // SAFETY: 16 scales are half a register long, their place a whole one.
        unsafe {
            _mm512_store_ps(to.as_mut_ptr(), _mm512_cvtph_ps(_mm256_loadu_si256(scales.as_ptr().cast())))
        };
    }
    to.for_each(|to| to[..LANES].fill(0.0));
}

/// Unpacks one group of a panel of 16 rows in 8 or 10 bits.
///
/// # Safety
/// As [`PanelSource::fill_group`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
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
            // SAFETY: `bytes`, low bits and each place are a register long.
            unsafe {
                if dword % 4 == 0 {
                    low = low_bits.next().map(|low| _mm512_loadu_si512(low.as_ptr().cast()));
                }
                let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
                let pairs = match &mut low {
                    Some(low) => widen_with(bytes, low),
                    None => widen(bytes),
                };
                for (odd, pair) in pairs.into_iter().enumerate() {
                    let place = &mut to[(2 * dword + odd) * ROWS..][..LANES];
                    _mm512_store_si512(place.as_mut_ptr().cast(), pair);
                }
            }
        }
    }
}

/// Unpacks the codes of one group of 16 rows.
///
/// # Safety
/// As [`PanelSource::fill_group`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn mxfp4_codes(weight: Mxfp4Rows, rows: Range<usize>, group: usize, to: &mut [f32]) {
    /// Places of a group that a half of the panel fills.
    const PLACES: usize = (BLOCKS * PAIRS - 1) * ROWS + LANES;
    let count = BLOCKS.min(weight.num_blocks - group * BLOCKS);
    let mask = u64::MAX >> (64 - count * BLOCK / 2);
    let row_len = weight.num_blocks * BLOCK / 2;
    let from = weight.blocks[rows.start * row_len + group * GROUP / 2..].as_ptr();
    let mut lines = [_mm512_setzero_si512(); LANES];
    if rows.len() == LANES && count == BLOCKS {
        for (lane, line) in lines.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *line = unsafe { _mm512_loadu_si512(from.wrapping_add(lane * row_len).cast()) };
        }
    } else {
        for (lane, line) in lines.iter_mut().enumerate() {
            // Past the last row the last one is taken again.
            let row = lane.min(rows.len() - 1);
            // SAFETY: the mask keeps to the blocks that are there.
            *line = unsafe { _mm512_maskz_loadu_epi8(mask, from.wrapping_add(row * row_len).cast()) };
        }
    }
    let dwords = transpose_16x16(lines);
    let halves = load_weights();
    let to: *mut i32 = to[..PLACES].as_mut_ptr().cast();
    for j in 0..PAIRS / PLANES {
        for block in 0..BLOCKS {
            // SAFETY: there is a place for each pair of the group, a register long.
            unsafe { put_codes(dwords[4 * block + j], halves, to.add((block * PAIRS + j) * ROWS)) };
        }
    }
}

/// Puts the weights of eight codes of each row where they belong, from `to` on: those of each shift by a code after the others.
///
/// # Safety
/// The four places are there, a register each, and begin on cache lines.
#[inline(always)]
unsafe fn put_codes(codes: __m512i, halves: __m512i, to: *mut i32) {
    /// From the place of one shift to that of the next.
    const STEP: usize = PAIRS / PLANES * ROWS;
    // SAFETY: the caller's promise, and its instructions.
    unsafe {
        _mm512_store_si512(to.cast(), _mm512_permutexvar_epi16(codes, halves));
        let codes = _mm512_srli_epi16::<4>(codes);
        _mm512_store_si512(to.add(STEP).cast(), _mm512_permutexvar_epi16(codes, halves));
        let codes = _mm512_srli_epi16::<4>(codes);
        _mm512_store_si512(to.add(2 * STEP).cast(), _mm512_permutexvar_epi16(codes, halves));
        let codes = _mm512_srli_epi16::<4>(codes);
        _mm512_store_si512(to.add(3 * STEP).cast(), _mm512_permutexvar_epi16(codes, halves));
    }
}

/// The scales of up to 16 rows; those past the end of the rows are 1.
///
/// # Safety
/// As [`PanelSource::fill_scales`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn mxfp4_scales(weight: Mxfp4Rows, rows: Range<usize>, to: &mut [f32]) {
    /// Scales of a row that fill a register.
    const SOME: usize = 4 * LANES;
    for (some, to) in to.chunks_mut(SOME * ROWS).enumerate() {
        let first = some * SOME;
        let mask = u64::MAX >> (SOME - SOME.min(weight.num_blocks - first));
        let mut lines = [_mm512_setzero_si512(); LANES];
        for (lane, line) in lines.iter_mut().enumerate() {
            // Past the last row the last one is taken again.
            let row = rows.start + lane.min(rows.len() - 1);
            let from = weight.scales[row * weight.num_blocks + first..].as_ptr();
            // SAFETY: the mask keeps to the scales that are there.
            *line = unsafe { _mm512_mask_loadu_epi8(_mm512_set1_epi8(127), mask, from.cast()) };
        }
        for (mut four, to) in transpose_16x16(lines).into_iter().zip(to.chunks_mut(4 * ROWS)) {
            for to in to.chunks_mut(ROWS) {
                let scales = exp2_of_e8m0(_mm512_and_si512(four, _mm512_set1_epi32(255)));
                // SAFETY: each place is a register long.
                unsafe { _mm512_store_ps(to[..LANES].as_mut_ptr(), scales) };
                four = _mm512_srli_epi32::<8>(four);
            }
        }
    }
}
