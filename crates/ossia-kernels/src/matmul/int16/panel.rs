//! Weights of a few rows as 16-bit integers, side by side, for many tokens to meet.

use std::arch::x86_64::*;
use std::ops::Range;

use super::narrow::{exp2_of_e8m0, load_weights, tail_scales};
use super::{BLOCK, GROUP, LANES, Mxfp4Rows, PAIRS};
use crate::cpu::Scratch;

/// Registers of rows side by side.
pub(super) const WIDTH: usize = 2;
/// Rows of a panel.
pub(super) const ROWS: usize = WIDTH * LANES;

/// Blocks of a group.
const BLOCKS: usize = GROUP / BLOCK;
/// Most groups of a panel, so that it stays in the first-level cache beside the activations it meets.
pub(super) const MAX_GROUPS: usize = 2;

/// Some groups of 32 rows, a row per lane: `[blocks, 16 pairs, 32 rows]` of two weights each, and a scale per
/// block and row.
pub(super) struct Panel {
    /// Pairs of 16-bit integers, as bits.
    pairs: Scratch,
    /// `[blocks, 32 rows]`.
    scales: Scratch,
}

impl Panel {
    /// An empty panel.
    pub(super) fn new() -> Self {
        let num_blocks = MAX_GROUPS * BLOCKS;
        Self { pairs: Scratch::new(num_blocks * PAIRS * ROWS), scales: Scratch::new(num_blocks * ROWS) }
    }

    /// The pairs of the panel's block `block`, `[16, 32 rows]`.
    pub(super) fn pairs(&self, block: usize) -> *const i32 {
        self.pairs[block * PAIRS * ROWS..].as_ptr().cast()
    }

    /// The scales of the panel's block `block`, `[32 rows]`.
    pub(super) fn scales(&self, block: usize) -> *const f32 {
        self.scales[block * ROWS..].as_ptr()
    }

    /// Unpacks `groups` of `count` rows from `first_row`. The lanes of rows past them repeat the last; blocks
    /// past the end of the rows are zero.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ, VL; the rows are in range, the groups begin within them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn fill(
        &mut self,
        weight: Mxfp4Rows,
        first_row: usize,
        count: usize,
        groups: Range<usize>,
    ) {
        for half in 0..WIDTH {
            let rows = std::array::from_fn(|lane| first_row + (half * LANES + lane).min(count - 1));
            for (at, group) in groups.clone().enumerate() {
                // SAFETY: the caller's promise.
                unsafe {
                    self.fill_codes(weight, &rows, group, at * BLOCKS, half);
                    self.fill_scales(weight, &rows, group, at * BLOCKS, half);
                }
            }
        }
    }

    /// Unpacks the codes of one group of 16 rows into half of the panel, from its block `at`.
    ///
    /// # Safety
    /// As [`Self::fill`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn fill_codes(
        &mut self,
        weight: Mxfp4Rows,
        rows: &[usize; LANES],
        group: usize,
        at: usize,
        half: usize,
    ) {
        let count = BLOCKS.min(weight.num_blocks - group * BLOCKS);
        let mask = u64::MAX >> (64 - count * BLOCK / 2);
        let mut lines = [_mm512_setzero_si512(); LANES];
        for (line, row) in lines.iter_mut().zip(rows) {
            let from = (row * weight.num_blocks + group * BLOCKS) * BLOCK / 2;
            // SAFETY: the mask keeps to the blocks that are there.
            *line = unsafe { _mm512_maskz_loadu_epi8(mask, weight.blocks[from..].as_ptr().cast()) };
        }
        let halves = load_weights();
        let to = self.pairs[(at * PAIRS * WIDTH + half) * LANES..].as_mut_ptr().cast::<i32>();
        assert!((at + BLOCKS) * PAIRS * ROWS <= self.pairs.len());
        for (dword, codes) in transpose(lines).into_iter().enumerate() {
            let weights = [
                _mm512_permutexvar_epi16(codes, halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(codes), halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(codes), halves),
            ];
            for (plane, weights) in weights.into_iter().enumerate() {
                let pair = dword / 4 * PAIRS + plane * 4 + dword % 4;
                // SAFETY: the group's pairs lie in the buffer, as asserted.
                unsafe { _mm512_store_si512(to.add(pair * ROWS).cast(), weights) };
            }
        }
    }

    /// As [`Self::fill_codes`], for the scales.
    ///
    /// # Safety
    /// As [`Self::fill`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn fill_scales(
        &mut self,
        weight: Mxfp4Rows,
        rows: &[usize; LANES],
        group: usize,
        at: usize,
        half: usize,
    ) {
        let first = group * BLOCKS;
        let count = BLOCKS.min(weight.num_blocks - first);
        let mut bytes = [0i32; LANES];
        for (bytes, row) in bytes.iter_mut().zip(rows) {
            let scales = &weight.scales[row * weight.num_blocks + first..][..count];
            *bytes = match scales.first_chunk() {
                Some(four) => i32::from_le_bytes(*four),
                None => tail_scales(scales),
            };
        }
        // SAFETY: 16 values of 32 bits fill a register.
        let mut bytes = unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) };
        for block in at..at + BLOCKS {
            let scales = exp2_of_e8m0(_mm512_and_si512(bytes, _mm512_set1_epi32(255)));
            let to = &mut self.scales[block * ROWS + half * LANES..][..LANES];
            // SAFETY: `to` is a register long.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), scales) };
            bytes = _mm512_srli_epi32::<8>(bytes);
        }
    }
}

/// Sixteen rows of sixteen dwords to sixteen columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // Each quarter of `fours[i][j]` is a column of rows `4 * i` to `4 * i + 3`: quarter `q` is column `4 * q + j`.
    let mut fours = [[_mm512_setzero_si512(); 4]; 4];
    for (i, fours) in fours.iter_mut().enumerate() {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let ab = [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
        let cd = [_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)];
        for half in 0..2 {
            fours[2 * half] = _mm512_unpacklo_epi64(ab[half], cd[half]);
            fours[2 * half + 1] = _mm512_unpackhi_epi64(ab[half], cd[half]);
        }
    }
    let mut columns = [_mm512_setzero_si512(); LANES];
    for j in 0..4 {
        let [a, b, c, d] = [fours[0][j], fours[1][j], fours[2][j], fours[3][j]];
        let low = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        let high = (_mm512_shuffle_i32x4::<0xEE>(a, b), _mm512_shuffle_i32x4::<0xEE>(c, d));
        columns[j] = _mm512_shuffle_i32x4::<0x88>(low.0, low.1);
        columns[4 + j] = _mm512_shuffle_i32x4::<0xDD>(low.0, low.1);
        columns[8 + j] = _mm512_shuffle_i32x4::<0x88>(high.0, high.1);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xDD>(high.0, high.1);
    }
    columns
}
