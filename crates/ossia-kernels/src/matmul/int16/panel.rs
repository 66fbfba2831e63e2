//! Weights of a few rows as 16-bit integers, side by side, for many tokens to meet.

use std::arch::x86_64::*;
use std::ops::Range;

use super::narrow::{exp2_of_e8m0, load_weights, tail_scales};
use super::narrow_int8::{widen, widen_with};
use super::{BLOCK, GROUP, LANES, Mxfp4Rows, PAIRS};
use crate::cpu::Scratch;
use crate::weight::Int8View;

/// Registers of rows side by side.
pub(super) const WIDTH: usize = 2;
/// Rows of a panel.
pub(super) const ROWS: usize = WIDTH * LANES;

/// Blocks of a group.
const BLOCKS: usize = GROUP / BLOCK;
/// Most groups of a panel, so that it stays in the first-level cache beside the activations it meets.
pub(super) const MAX_GROUPS: usize = 2;

/// How far ahead of bytes being unpacked memory is asked for: what the next panel will hold of the rows.
const AHEAD: usize = MAX_GROUPS * BLOCKS * LANES * BLOCK;

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

    /// Unpacks `groups` of `count` rows from `first_row`. What the lanes of rows past them hold is not said;
    /// blocks past the end of the rows are zero.
    ///
    /// # Safety
    /// AVX-512 F, BW, DQ, VL; the rows are in range, the groups begin within them.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn fill<S: PanelSource>(
        &mut self,
        weight: S,
        first_row: usize,
        count: usize,
        groups: Range<usize>,
    ) {
        for half in 0..WIDTH {
            // A half without rows of its own repeats the first.
            let start = if half * LANES < count { half * LANES } else { 0 };
            let rows = first_row + start..first_row + count.min(start + LANES);
            for (at, group) in groups.clone().enumerate() {
                let to = Corner { at: at * BLOCKS, half };
                // SAFETY: the caller's promise.
                unsafe { weight.fill_group(rows.clone(), group, self, to) };
            }
        }
    }

    /// Where the first pairs of a group go; `[blocks, 16 pairs, 32 rows]` are there.
    fn block_mut(&mut self, to: Corner) -> *mut i32 {
        let group = &mut self.pairs[to.at * PAIRS * ROWS..][..BLOCKS * PAIRS * ROWS];
        group[to.half * LANES..].as_mut_ptr().cast()
    }

    /// Where pair `pair` of the panel's block `block` goes.
    fn pair_mut(&mut self, to: Corner, block: usize, pair: usize) -> &mut [f32] {
        &mut self.pairs[((to.at + block) * PAIRS + pair) * ROWS + to.half * LANES..][..LANES]
    }

    /// Where the scales of the panel's block `block` go.
    fn scales_mut(&mut self, to: Corner, block: usize) -> &mut [f32] {
        &mut self.scales[(to.at + block) * ROWS + to.half * LANES..][..LANES]
    }
}

/// A place in a panel: its block and half of its rows.
#[derive(Clone, Copy)]
pub(super) struct Corner {
    at: usize,
    half: usize,
}

/// Weights that can be unpacked into a panel.
pub(super) trait PanelSource: Copy {
    /// Unpacks one group of up to 16 rows to `to`.
    ///
    /// # Safety
    /// As [`Panel::fill`].
    unsafe fn fill_group(self, rows: Range<usize>, group: usize, panel: &mut Panel, to: Corner);
}

impl PanelSource for Mxfp4Rows<'_> {
    #[inline]
    unsafe fn fill_group(self, rows: Range<usize>, group: usize, panel: &mut Panel, to: Corner) {
        // SAFETY: the caller's promise.
        unsafe {
            fill_codes(self, rows.clone(), group, panel, to);
            fill_scales(self, rows, group, panel, to);
        }
    }
}

impl PanelSource for Int8View<'_> {
    #[inline]
    unsafe fn fill_group(self, rows: Range<usize>, group: usize, panel: &mut Panel, to: Corner) {
        // SAFETY: the caller's promise.
        unsafe { fill_int8(self, rows.start / LANES, group, panel, to) }
    }
}

/// Unpacks one group of a panel of 16 rows in 8 or 10 bits.
///
/// # Safety
/// As [`Panel::fill`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn fill_int8(weight: Int8View, source: usize, group: usize, panel: &mut Panel, to: Corner) {
    for block in 0..BLOCKS {
        let from = group * BLOCKS + block;
        if from >= weight.num_blocks {
            (0..PAIRS).for_each(|pair| panel.pair_mut(to, block, pair).fill(0.0));
            panel.scales_mut(to, block).fill(0.0);
            continue;
        }
        let from = source * weight.num_blocks + from;
        let dwords = weight.values[from * LANES * BLOCK..][..LANES * BLOCK].chunks_exact(4 * LANES);
        let mut low_bits = weight.low_bits.chunks_exact(LANES).skip(2 * from);
        let mut low = None;
        for (dword, bytes) in dwords.enumerate() {
            // SAFETY: `bytes`, low bits and each place are a register long.
            unsafe {
                _mm_prefetch::<_MM_HINT_T1>(bytes.as_ptr().wrapping_add(AHEAD));
                if dword % 4 == 0 {
                    low = low_bits.next().map(|low| _mm512_loadu_si512(low.as_ptr().cast()));
                }
                let bytes = _mm512_loadu_si512(bytes.as_ptr().cast());
                let pairs = match &mut low {
                    Some(low) => widen_with(bytes, low),
                    None => widen(bytes),
                };
                for (odd, pair) in pairs.into_iter().enumerate() {
                    let place = panel.pair_mut(to, block, 2 * dword + odd);
                    _mm512_store_si512(place.as_mut_ptr().cast(), pair);
                }
            }
        }
        let scales = &weight.double_scales[from * LANES..][..LANES];
        // SAFETY: 16 scales are half a register long, their place a whole one.
        unsafe {
            let scales = _mm512_cvtph_ps(_mm256_loadu_si256(scales.as_ptr().cast()));
            _mm512_store_ps(panel.scales_mut(to, block).as_mut_ptr(), scales);
        }
    }
}

/// Unpacks the codes of one group of 16 rows, and asks memory for what the next panel will hold of them.
///
/// # Safety
/// As [`Panel::fill`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn fill_codes(weight: Mxfp4Rows, rows: Range<usize>, group: usize, panel: &mut Panel, to: Corner) {
    let count = BLOCKS.min(weight.num_blocks - group * BLOCKS);
    let mask = u64::MAX >> (64 - count * BLOCK / 2);
    let row_len = weight.num_blocks * BLOCK / 2;
    let codes = weight.blocks[rows.start * row_len + group * GROUP / 2..].as_ptr();
    let ahead = match group + MAX_GROUPS < weight.num_blocks.div_ceil(BLOCKS) {
        true => MAX_GROUPS * GROUP / 2,
        false => (ROWS * row_len).wrapping_sub(group / MAX_GROUPS * MAX_GROUPS * GROUP / 2),
    };
    let mut lines = [_mm512_setzero_si512(); LANES];
    for (lane, line) in lines.iter_mut().enumerate() {
        let from = codes.wrapping_add(lane.min(rows.len() - 1) * row_len);
        _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(ahead).cast());
        // SAFETY: the mask keeps to the blocks that are there.
        *line = unsafe { _mm512_maskz_loadu_epi8(mask, from.cast()) };
    }
    let halves = load_weights();
    let to = panel.block_mut(to);
    for (dword, codes) in transpose(lines).into_iter().enumerate() {
        let weights = [
            _mm512_permutexvar_epi16(codes, halves),
            _mm512_permutexvar_epi16(_mm512_srli_epi16::<4>(codes), halves),
            _mm512_permutexvar_epi16(_mm512_srli_epi16::<8>(codes), halves),
            _mm512_permutexvar_epi16(_mm512_srli_epi16::<12>(codes), halves),
        ];
        let (block, j) = (dword / 4, dword % 4);
        for (s, weights) in weights.into_iter().enumerate() {
            // SAFETY: the panel holds the group's blocks, each place is a register long.
            unsafe { _mm512_store_si512(to.add((block * PAIRS + s * 4 + j) * ROWS).cast(), weights) };
        }
    }
}

/// As [`fill_codes`], for the scales.
///
/// # Safety
/// As [`Panel::fill`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn fill_scales(weight: Mxfp4Rows, rows: Range<usize>, group: usize, panel: &mut Panel, to: Corner) {
    let first = group * BLOCKS;
    let count = BLOCKS.min(weight.num_blocks - first);
    // SAFETY: 16 values of 32 bits fill a register; four scales of each row are there to be gathered.
    let mut bytes = unsafe {
        if count == BLOCKS {
            let lanes = _mm512_loadu_si512(LANE_NUMBERS.as_ptr().cast());
            let lanes = _mm512_min_epi32(lanes, _mm512_set1_epi32(rows.len() as i32 - 1));
            let offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(weight.num_blocks as i32));
            let scales = weight.scales[rows.start * weight.num_blocks + first..].as_ptr();
            _mm512_i32gather_epi32::<1>(offsets, scales.cast())
        } else {
            let mut bytes = [0i32; LANES];
            for (lane, bytes) in bytes.iter_mut().enumerate() {
                let row = rows.start + lane.min(rows.len() - 1);
                *bytes = tail_scales(&weight.scales[row * weight.num_blocks + first..][..count]);
            }
            _mm512_loadu_si512(bytes.as_ptr().cast())
        }
    };
    for block in 0..BLOCKS {
        let scales = exp2_of_e8m0(_mm512_and_si512(bytes, _mm512_set1_epi32(255)));
        // SAFETY: each place is a register long.
        unsafe { _mm512_store_ps(panel.scales_mut(to, block).as_mut_ptr(), scales) };
        bytes = _mm512_srli_epi32::<8>(bytes);
    }
}

/// The number of each lane.
static LANE_NUMBERS: [i32; LANES] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

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
