//! Pairs of bf16 as operands, for processors that multiply and sum them in one instruction.

use std::arch::x86_64::*;
use std::ops::Range;

use float8::F8E4M3;
use half::bf16;

use super::few_rows::{DimOrder, add_in_order};
use super::{
    AttentionShape, Avx512, CHUNK_LEN, CachedValues, FEW_ROWS, KEY_STEP, KvElement, Operands, Portable,
    TypedPointer, columns,
};
use crate::cpu::{dot_bf16, to_bf16};
use crate::fp8;

/// Lanes of a register.
const LANES: usize = 16;

/// AVX-512 BF16: queries and powers are rounded to bf16 too, sums are f32.
#[derive(Clone, Copy)]
pub(in super::super::super) struct Bf16Pairs;

impl Bf16Pairs {
    /// Whether such heads are whole registers of bf16.
    pub(in super::super::super) fn fits(shape: AttentionShape) -> bool {
        shape.head_dim.is_multiple_of(2 * LANES)
    }
}

impl Operands for Bf16Pairs {
    type Vector = Avx512;
    const DEPTH: usize = 2;

    #[inline(always)]
    fn lane(numbers: &[f32]) -> f32 {
        let [first, second] = [numbers[0], numbers[1]].map(|x| u32::from(bf16::from_f32(x).to_bits()));
        f32::from_bits(first | second << 16)
    }

    #[inline(always)]
    unsafe fn multiply_add(a: Avx512, b: Avx512, sum: Avx512) -> Avx512 {
        // SAFETY: the trait's condition.
        unsafe { Avx512(dot_bf16(_mm512_castps_si512(a.0), _mm512_castps_si512(b.0), sum.0)) }
    }

    #[inline(always)]
    unsafe fn pack(numbers: &mut [f32]) {
        assert!(numbers.len().is_multiple_of(LANES));
        let start = numbers.as_mut_ptr();
        for at in (0..numbers.len()).step_by(LANES) {
            // SAFETY: the trait's condition; a step is a register of f32 and half of one of bf16, which ends before what is
            // still to be read.
            unsafe {
                let pairs = to_bf16(_mm512_loadu_ps(start.add(at)));
                _mm256_storeu_si256(start.add(at / 2).cast(), pairs);
            }
        }
    }

    #[inline(always)]
    unsafe fn widen_e4m3<T: KvElement>(from: &[F8E4M3], to: &mut [T]) {
        match T::typed(to.as_ptr()) {
            // SAFETY: the trait's condition; `to` is of bf16.
            TypedPointer::Bf16(at) => unsafe {
                fp8::widen_avx512(from, std::slice::from_raw_parts_mut(at.cast_mut(), to.len()));
            },
            // SAFETY: plain Rust runs everywhere.
            TypedPointer::F32(_) => unsafe { Portable::widen_e4m3(from, to) },
        }
    }

    #[inline(always)]
    unsafe fn transpose_keys<T: KvElement>(from: *const T, stride: usize, head_dim: usize, to: *mut f32) {
        for dim in (0..head_dim).step_by(2 * LANES) {
            // SAFETY: the trait's condition, and the caller's: keys and places are there.
            unsafe {
                for (pair, column) in columns(from.add(dim).cast(), stride).into_iter().enumerate() {
                    _mm512_storeu_si512(to.add((dim / 2 + pair) * CHUNK_LEN).cast(), column);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn put_values<T: KvElement>(values: &CachedValues<T>, dims: usize, to: &mut [f32]) {
        // SAFETY: the trait's condition.
        unsafe { put_values(values, dims, to) }
    }

    #[inline(always)]
    fn reads_cache<T: KvElement>(shape: AttentionShape) -> bool {
        matches!(T::typed(std::ptr::null()), TypedPointer::Bf16(_))
            && shape.block_size.is_multiple_of(KEY_STEP)
    }

    #[inline(always)]
    unsafe fn logits<T: KvElement>(
        q: *const f32,
        keys: *const T,
        stride: usize,
        head_dim: usize,
        to: &mut [[f32; CHUNK_LEN]; FEW_ROWS],
        at: usize,
    ) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { logits(q, keys.cast(), stride, head_dim, to, at) }
    }

    #[inline(always)]
    unsafe fn add_values<T: KvElement>(
        values: &CachedValues<T>,
        powers: &[[f32; CHUNK_LEN]; FEW_ROWS],
        shrink: &[f32; FEW_ROWS],
        sums: &mut [f32],
        len: usize,
    ) {
        // SAFETY: the trait's condition, and the caller's.
        unsafe { add_values(values, powers, shrink, sums, len) }
    }
}

/// Values `dim` to `dim + 32` of keys `2 * pair` and `2 * pair + 1`; zeros of one that no row sees.
///
/// # Safety
/// AVX-512F and BW; the cache is of bf16, `head_dim` is whole registers of it, and both keys have a slot.
#[inline(always)]
unsafe fn two_keys<T: KvElement>(values: &CachedValues<T>, pair: usize, dim: usize) -> [__m512i; 2] {
    // SAFETY: the condition above.
    let mut keys = unsafe { [_mm512_setzero_si512(); 2] };
    for (key, to) in (2 * pair..).zip(&mut keys) {
        let seen = if values.visible.contains(&key) { u32::MAX } else { 0 };
        let from = values.of(key)[dim..][..2 * LANES].as_ptr();
        // SAFETY: 32 values of 16 bits fill a register.
        *to = unsafe { _mm512_maskz_loadu_epi16(seen, from.cast()) };
    }
    keys
}

/// The pairs of keys of which some row sees one.
fn visible_pairs<T>(values: &CachedValues<T>) -> Range<usize> {
    values.visible.start / 2..values.visible.end.div_ceil(2)
}

/// As [`Operands::put_values`].
///
/// # Safety
/// AVX-512F and BW; the cache is of bf16, and `head_dim` is whole registers of it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn put_values<T: KvElement>(values: &CachedValues<T>, dims: usize, to: &mut [f32]) {
    // Words of one register, and of the other after them, in turns.
    let words: [[u16; 2 * LANES]; 2] =
        [0, 16].map(|first| std::array::from_fn(|at| first + at as u16 / 2 + 32 * (at as u16 % 2)));
    for pair in visible_pairs(values) {
        for dim in (0..values.head_dim).step_by(2 * LANES) {
            // SAFETY: the caller's promise; a chunk's steps of keys have slots.
            let [even, odd] = unsafe { two_keys(values, pair, dim) };
            let to = &mut to[pair * dims + dim..][..2 * LANES];
            for (words, to) in words.iter().zip(to.chunks_exact_mut(LANES)) {
                // SAFETY: arrays and room of a register.
                unsafe {
                    let words = _mm512_loadu_si512(words.as_ptr().cast());
                    let pairs = _mm512_permutex2var_epi16(even, words, odd);
                    _mm512_storeu_si512(to.as_mut_ptr().cast(), pairs);
                }
            }
        }
    }
}

/// As [`Operands::logits`].
///
/// # Safety
/// AVX-512 F and BF16; `q` has the rows, `keys` the keys, and `head_dim` is whole registers of bf16.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn logits(
    q: *const f32,
    keys: *const bf16,
    stride: usize,
    head_dim: usize,
    to: &mut [[f32; CHUNK_LEN]; FEW_ROWS],
    at: usize,
) {
    let mut sums = [_mm512_setzero_ps(); FEW_ROWS];
    for dim in (0..head_dim).step_by(2 * LANES) {
        // SAFETY: the caller's promise.
        let columns = unsafe { columns(keys.add(dim), stride) };
        for (pair, column) in columns.into_iter().enumerate() {
            for (row, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's promise.
                let q = unsafe { _mm512_set1_ps(*q.add((dim / 2 + pair) * FEW_ROWS + row)) };
                *sum = dot_bf16(column, _mm512_castps_si512(q), *sum);
            }
        }
    }
    for (to, sum) in to.iter_mut().zip(sums) {
        // SAFETY: 16 values are a register long.
        unsafe { _mm512_storeu_ps(to[at..][..KEY_STEP].as_mut_ptr(), sum) };
    }
}

/// As [`Operands::add_values`].
///
/// # Safety
/// AVX-512 F, BW and BF16; the cache is of bf16, `head_dim` is whole registers of it, and `sums` has the rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn add_values<T: KvElement>(
    values: &CachedValues<T>,
    powers: &[[f32; CHUNK_LEN]; FEW_ROWS],
    shrink: &[f32; FEW_ROWS],
    sums: &mut [f32],
    len: usize,
) {
    for dim in (0..values.head_dim).step_by(2 * LANES) {
        let mut added = [[_mm512_setzero_ps(); 2]; FEW_ROWS];
        for pair in visible_pairs(values) {
            // SAFETY: the caller's promise; a chunk's steps of keys have slots.
            let [even, odd] = unsafe { two_keys(values, pair, dim) };
            let (low, high) = (_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd));
            for (added, powers) in added.iter_mut().zip(powers) {
                let powers = _mm512_castps_si512(_mm512_set1_ps(powers[pair]));
                added[0] = dot_bf16(low, powers, added[0]);
                added[1] = dot_bf16(high, powers, added[1]);
            }
        }
        add_in_order(&added, DimOrder::HalvesOfEight, shrink, &mut sums[dim..], len);
    }
}
