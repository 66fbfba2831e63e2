//! [`Vector`] on x86-64: AVX2 with FMA, and AVX-512.

use std::arch::x86_64::*;

use super::Vector;

/// AVX2 and FMA: 8 lanes of __m256.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(__m256);

impl Vector for Avx2 {
    const LANES: usize = 8;
    const MAX_VECTORS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm256_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn scale_by_pow2(self, power: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe {
            let n = _mm256_cvtps_epi32(power.0);
            let bits = _mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23);
            Self(_mm256_mul_ps(self.0, _mm256_castsi256_ps(bits)))
        }
    }

    #[inline(always)]
    unsafe fn first(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe { _mm256_cvtss_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps(self.0, 1));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn sum_by_halves(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps(self.0, 1));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn prefetch<T>(values: &[T]) {
        prefetch(values);
    }

    #[inline(always)]
    unsafe fn where_ge(self, left: Self, right: Self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe {
            let mask = _mm256_cmp_ps(left.0, right.0, _CMP_GE_OQ);
            Self(_mm256_blendv_ps(other.0, self.0, mask))
        }
    }
}

/// AVX-512F: 16 lanes of __m512.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512(__m512);

impl Vector for Avx512 {
    const LANES: usize = 16;
    const MAX_VECTORS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_set1_ps(x)) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_fmadd_ps(self.0, factor.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn scale_by_pow2(self, power: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe { Self(_mm512_scalef_ps(self.0, power.0)) }
    }

    #[inline(always)]
    unsafe fn first(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe { _mm512_cvtss_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe {
            let [low, high] = halves(self.0);
            Avx2(_mm256_max_ps(low, high)).largest()
        }
    }

    #[inline(always)]
    unsafe fn sum_by_halves(self) -> f32 {
        // SAFETY: the trait's condition: the processor has the instruction.
        unsafe {
            let [low, high] = halves(self.0);
            Avx2(_mm256_add_ps(low, high)).sum_by_halves()
        }
    }

    #[inline(always)]
    unsafe fn transpose(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the trait's condition, and the caller's: both squares are there.
        unsafe {
            let mut rows = [_mm512_setzero_ps(); 16];
            for (idx, row) in rows.iter_mut().enumerate() {
                *row = _mm512_loadu_ps(from.add(idx * from_stride));
            }
            for (idx, column) in transpose(rows).into_iter().enumerate() {
                _mm512_storeu_ps(to.add(idx * to_stride), column);
            }
        }
    }

    #[inline(always)]
    fn prefetch<T>(values: &[T]) {
        prefetch(values);
    }

    #[inline(always)]
    unsafe fn where_ge(self, left: Self, right: Self, other: Self) -> Self {
        // SAFETY: the trait's condition: the processor has the instruction, pointers have room for all lanes.
        unsafe {
            let mask = _mm512_cmp_ps_mask(left.0, right.0, _CMP_GE_OQ);
            Self(_mm512_mask_blend_ps(mask, other.0, self.0))
        }
    }
}

/// Asks for every cache line of `values`.
#[inline(always)]
fn prefetch<T>(values: &[T]) {
    let first = values.as_ptr().cast::<i8>();
    for at in (0..size_of_val(values)).step_by(64) {
        // SAFETY: SSE is part of x86-64, and asking for memory reads none.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(first.wrapping_add(at)) };
    }
}

/// Lower and upper eight lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(x: __m512) -> [__m256; 2] {
    let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(x));
    [_mm512_castps512_ps256(x), _mm256_castpd_ps(high)]
}

/// Sixteen rows of sixteen values to sixteen columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512; 16]) -> [__m512; 16] {
    // Each quarter of `fours[i][j]` is a column of rows `4 * i` to `4 * i + 3`: quarter `q` is column `4 * q + j`.
    let mut fours = [[_mm512_setzero_ps(); 4]; 4];
    for (i, fours) in fours.iter_mut().enumerate() {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let ab = [_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)];
        let cd = [_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d)];
        for half in 0..2 {
            fours[2 * half] = _mm512_shuffle_ps::<0x44>(ab[half], cd[half]);
            fours[2 * half + 1] = _mm512_shuffle_ps::<0xEE>(ab[half], cd[half]);
        }
    }
    let mut columns = [_mm512_setzero_ps(); 16];
    for j in 0..4 {
        let [a, b, c, d] = [fours[0][j], fours[1][j], fours[2][j], fours[3][j]];
        let low = [_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d)];
        let high = [_mm512_shuffle_f32x4::<0xEE>(a, b), _mm512_shuffle_f32x4::<0xEE>(c, d)];
        columns[j] = _mm512_shuffle_f32x4::<0x88>(low[0], low[1]);
        columns[4 + j] = _mm512_shuffle_f32x4::<0xDD>(low[0], low[1]);
        columns[8 + j] = _mm512_shuffle_f32x4::<0x88>(high[0], high[1]);
        columns[12 + j] = _mm512_shuffle_f32x4::<0xDD>(high[0], high[1]);
    }
    columns
}
