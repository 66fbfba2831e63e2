//! Activations in block floating point of 16 bits.

use std::arch::x86_64::*;

use super::{BLOCK, GROUP, LANES};

/// Exponent below which a block's grid gets no finer: its step is then 2^-114.
const MIN_EXPONENT: i32 = -100;
/// Significant bits of a value below its leading one.
const FRACTION_BITS: i32 = 14;

/// Rows of activations: `value = q * step`, `q` a 16-bit integer, `step` a power of two per block.
///
/// Each group of 128 values is laid out as 4 planes of 16 pairs: pair `i` of plane `s` holds the values
/// `8 * i + s` and `8 * i + s + 4`. That is where a cache line of MXFP4, taken as 16 dwords of eight nibbles
/// and shifted right by `s` nibbles, has them. Rows are padded with zeros to whole groups.
pub(crate) struct Int16Rows {
    num_tokens: usize,
    num_groups: usize,
    /// `[num_tokens, num_groups, 4 planes, 16 pairs, 2]`.
    values: Vec<i16>,
    /// Half the step of each block, four times over: `[num_tokens, num_groups, 4 blocks, 4]`. The half makes
    /// up for MXFP4's weights being counted in halves.
    half_steps: Vec<f32>,
}

impl Int16Rows {
    /// Packs rows of `cols` values each. A block with a NaN or an infinity becomes NaN.
    ///
    /// # Safety
    /// AVX-512 F and BW.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(in super::super) unsafe fn pack<'a>(
        cols: usize,
        rows: impl ExactSizeIterator<Item = &'a [f32]>,
    ) -> Self {
        let (num_tokens, num_groups) = (rows.len(), cols.div_ceil(GROUP));
        let mut values = vec![0i16; num_tokens * num_groups * GROUP];
        let mut half_steps = vec![0f32; num_tokens * num_groups * LANES];
        let row_len = (num_groups * GROUP).max(1);
        let outs = values.chunks_mut(row_len).zip(half_steps.chunks_mut(row_len.div_ceil(GROUP) * LANES));
        for (row, (values, half_steps)) in rows.zip(outs) {
            for (block, from) in row.chunks(BLOCK).enumerate() {
                // SAFETY: the caller's promise; a row's buffers hold all its groups.
                unsafe { pack_block(from, block, values, half_steps) };
            }
        }
        Self { num_tokens, num_groups, values, half_steps }
    }

    /// Number of rows.
    pub(super) fn num_tokens(&self) -> usize {
        self.num_tokens
    }

    /// Groups per row.
    pub(super) fn num_groups(&self) -> usize {
        self.num_groups
    }

    /// The pairs of a row, `[num_groups, 4, 16]`.
    pub(super) fn pairs(&self, token: usize) -> *const i32 {
        self.values[token * self.num_groups * GROUP..].as_ptr().cast()
    }

    /// The half steps of a row, `[num_groups, 4, 4]`.
    pub(super) fn half_steps(&self, token: usize) -> *const f32 {
        self.half_steps[token * self.num_groups * LANES..].as_ptr()
    }
}

/// The exponent that a block of largest magnitude `max` is quantised with.
fn exponent(max: f32) -> i32 {
    ((max.to_bits() >> 23) as i32 - 127).max(MIN_EXPONENT)
}

/// `2^exponent`, in the normal range.
fn pow2(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// Quantises up to 32 values as block `block` of a row.
///
/// # Safety
/// AVX-512; the buffers hold the block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack_block(from: &[f32], block: usize, values: &mut [i16], half_steps: &mut [f32]) {
    let (group, in_group) = (block / 4, block % 4);
    let mask = u32::MAX >> (BLOCK - from.len());
    // SAFETY: the mask keeps the loads within `from`.
    let x = unsafe {
        [
            _mm512_maskz_loadu_ps(mask as u16, from.as_ptr()),
            _mm512_maskz_loadu_ps((mask >> 16) as u16, from.as_ptr().wrapping_add(16)),
        ]
    };
    let max = _mm512_max_ps(_mm512_abs_ps(x[0]), _mm512_abs_ps(x[1]));
    let max = _mm512_reduce_max_ps(max);
    let finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(x[0]), _mm512_set1_ps(f32::INFINITY))
        & _mm512_cmp_ps_mask::<_CMP_LT_OQ>(_mm512_abs_ps(x[1]), _mm512_set1_ps(f32::INFINITY));
    let steps = &mut half_steps[group * LANES + 4 * in_group..][..4];
    if finite != u16::MAX {
        steps.fill(f32::NAN);
        return;
    }
    let exponent = exponent(max);
    steps.fill(pow2(exponent - FRACTION_BITS - 1));
    let factor = _mm512_set1_ps(pow2(FRACTION_BITS - exponent));
    // Saturates the one value of a block that may round up to 2^15.
    let q = x.map(|x| _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_mul_ps(x, factor))));
    let q = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(q[0]), q[1]);
    let planes = _mm512_permutexvar_epi16(plane_order(), q);
    let quarters = [
        _mm512_castsi512_si128(planes),
        _mm512_extracti32x4_epi32::<1>(planes),
        _mm512_extracti32x4_epi32::<2>(planes),
        _mm512_extracti32x4_epi32::<3>(planes),
    ];
    for (plane, quarter) in quarters.into_iter().enumerate() {
        let to = &mut values[group * GROUP + plane * 2 * LANES + 8 * in_group..][..8];
        // SAFETY: `to` has the eight values that are written.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), quarter) };
    }
}

/// Which value of a block goes where: plane by plane, four pairs each.
#[target_feature(enable = "avx512f")]
fn plane_order() -> __m512i {
    const ORDER: [i16; BLOCK] = {
        let mut order = [0; BLOCK];
        let mut at = 0;
        while at < BLOCK {
            let (plane, pair, half) = (at / 8, at % 8 / 2, at % 2);
            order[at] = (8 * pair + plane + 4 * half) as i16;
            at += 1;
        }
        order
    };
    // SAFETY: 32 values of 16 bits fill a register.
    unsafe { _mm512_loadu_si512(ORDER.as_ptr().cast()) }
}
