//! Weights of a few rows as 16-bit integers, side by side, for many tokens to meet.

use std::arch::x86_64::*;

use super::narrow::{WEIGHTS, exp2_of_e8m0};
use super::{BLOCK, GROUP, LANES, Mxfp4Rows, PLANES};
use crate::cpu::Scratch;

/// Registers of rows side by side.
pub(super) const WIDTH: usize = 2;
/// Rows of a panel.
pub(super) const ROWS: usize = WIDTH * LANES;
/// Pairs of a block.
pub(super) const PAIRS: usize = BLOCK / 2;

/// 32 rows, one per lane: `[blocks, 16 pairs, 32 rows]` of two weights each, and a scale per block and row.
pub(super) struct Panel {
    /// Pairs of 16-bit integers, as bits.
    pairs: Scratch,
    /// `[blocks, 32 rows]`.
    scales: Scratch,
    num_blocks: usize,
}

impl Panel {
    /// Room for rows of `num_blocks` blocks, padded to whole groups.
    pub(super) fn new(num_blocks: usize) -> Self {
        let num_blocks = num_blocks.next_multiple_of(GROUP / BLOCK);
        let pairs = Scratch::new(num_blocks * PAIRS * ROWS);
        Self { pairs, scales: Scratch::new(num_blocks * ROWS), num_blocks }
    }

    /// Blocks per row, padded to whole groups.
    pub(super) fn num_blocks(&self) -> usize {
        self.num_blocks
    }

    /// The pairs of a block, `[16, 32 rows]`.
    pub(super) fn pairs(&self, block: usize) -> *const i32 {
        self.pairs[block * PAIRS * ROWS..].as_ptr().cast()
    }

    /// The scales of a block, `[32 rows]`.
    pub(super) fn scales(&self, block: usize) -> *const f32 {
        self.scales[block * ROWS..].as_ptr()
    }

    /// Unpacks `count` rows from `first_row`; the lanes of rows past them repeat the last.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ, VL; the rows are in range and as long as the panel was made for.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn fill(&mut self, weight: Mxfp4Rows, first_row: usize, count: usize) {
        for half in 0..WIDTH {
            let rows = std::array::from_fn(|lane| first_row + (half * LANES + lane).min(count - 1));
            for group in 0..self.num_blocks * BLOCK / GROUP {
                // SAFETY: the caller's promise; the panel holds all groups.
                unsafe { self.fill_group(weight, &rows, group, half) };
            }
        }
    }

    /// Unpacks one group of 16 rows into half of the panel.
    ///
    /// # Safety
    /// As [`Self::fill`].
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn fill_group(&mut self, weight: Mxfp4Rows, rows: &[usize; LANES], group: usize, half: usize) {
        const BLOCKS: usize = GROUP / BLOCK;
        let (first, count) = (group * BLOCKS, BLOCKS.min(weight.num_blocks - group * BLOCKS));
        let mask = u64::MAX >> (64 - count * BLOCK / 2);
        let lines: [__m512i; LANES] = rows.map(|row| {
            let at = (row * weight.num_blocks + first) * BLOCK / 2;
            // SAFETY: the mask keeps to the blocks that are there.
            unsafe { _mm512_maskz_loadu_epi8(mask, weight.blocks[at..].as_ptr().cast()) }
        });
        // SAFETY: 32 values of 16 bits.
        let halves = unsafe { _mm512_loadu_si512(WEIGHTS.as_ptr().cast()) };
        for (dword, codes) in transpose(lines).into_iter().enumerate() {
            let weights = [
                _mm512_permutexvar_epi16(codes, halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(codes), halves),
                _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(codes), halves),
            ];
            for (plane, weights) in weights.into_iter().enumerate() {
                let pair = (first * 4 + dword) * PLANES + plane;
                let to = &mut self.pairs[pair * ROWS + half * LANES..][..LANES];
                // SAFETY: `to` is a register long.
                unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), weights) };
            }
        }
        for block in 0..BLOCKS {
            let scale = |row: &usize| match block < count {
                true => i32::from(weight.scales[row * weight.num_blocks + first + block]),
                false => 127,
            };
            let mut bytes = [0i32; LANES];
            bytes.iter_mut().zip(rows).for_each(|(byte, row)| *byte = scale(row));
            let to = &mut self.scales[(first + block) * ROWS + half * LANES..][..LANES];
            // SAFETY: both are a register long.
            unsafe {
                let scales = exp2_of_e8m0(_mm512_loadu_si512(bytes.as_ptr().cast()));
                _mm512_storeu_ps(to.as_mut_ptr(), scales);
            }
        }
    }
}

/// Sixteen rows of sixteen dwords to sixteen columns.
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    // Dwords of neighbouring rows, then pairs of them: each quarter is then a 4 x 4 transposed.
    let pairs: [[__m512i; 2]; 8] = std::array::from_fn(|i| {
        let (a, b) = (rows[2 * i], rows[2 * i + 1]);
        [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)]
    });
    let fours: [[__m512i; 4]; 4] = std::array::from_fn(|i| {
        let ([a, c], [b, d]) = (pairs[2 * i], pairs[2 * i + 1]);
        [
            _mm512_unpacklo_epi64(a, b),
            _mm512_unpackhi_epi64(a, b),
            _mm512_unpacklo_epi64(c, d),
            _mm512_unpackhi_epi64(c, d),
        ]
    });
    // `fours[i][j]`, quarter `q`: column `4 * q + j` of rows `4 * i` to `4 * i + 3`.
    let mut columns = [_mm512_setzero_si512(); LANES];
    for j in 0..4 {
        let [a, b, c, d] = [fours[0][j], fours[1][j], fours[2][j], fours[3][j]];
        let ab = [_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b)];
        let cd = [_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xEE>(c, d)];
        for (high, (ab, cd)) in ab.into_iter().zip(cd).enumerate() {
            columns[8 * high + j] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
            columns[8 * high + 4 + j] = _mm512_shuffle_i32x4::<0xDD>(ab, cd);
        }
    }
    columns
}
