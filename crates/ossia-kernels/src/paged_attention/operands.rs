//! What meets in a product of rows with keys and values, and how it comes from the cache.

use std::ops::Range;

use float8::F8E4M3;

use super::chunk::KEY_STEP;
use super::cpu::KvElement;
use super::vector::{Portable, Vector};
use super::{AttentionShape, CHUNK_LEN};

/// Rows that share keys and values read from the cache as it lies.
pub(super) const FEW_ROWS: usize = 8;
/// Most numbers that a lane holds.
const MAX_DEPTH: usize = 2;

/// Operands of the products, in vectors of 32-bit lanes: one f32 a lane unless the type says otherwise, or a pair of smaller
/// numbers. Numbers of a lane are neighbouring dimensions where queries meet keys, neighbouring keys where powers meet values.
///
/// The unsafe methods need a processor with the implementing type's instructions.
pub(super) trait Operands: Copy {
    /// What the sums are in.
    type Vector: Vector;
    /// Numbers of a lane.
    const DEPTH: usize = 1;

    /// [`Self::DEPTH`] numbers as a lane holds them.
    #[inline(always)]
    fn lane(numbers: &[f32]) -> f32 {
        numbers[0]
    }

    /// Lane by lane `sum` and the products of `a` and `b`, in the order of the lane's numbers.
    #[inline(always)]
    unsafe fn multiply_add(a: Self::Vector, b: Self::Vector, sum: Self::Vector) -> Self::Vector {
        // SAFETY: the trait's condition.
        unsafe { a.mul_add(b, sum) }
    }

    /// Packs numbers, whole steps of [`KEY_STEP`] if lanes hold more than one, into the first lanes of where they are.
    #[inline(always)]
    unsafe fn pack(_numbers: &mut [f32]) {}

    /// Exact widening of as many numbers.
    #[inline(always)]
    unsafe fn widen_e4m3<T: KvElement>(from: &[F8E4M3], to: &mut [T]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = T::of_e4m3(*from));
    }

    /// Writes a key, lane `lane` of it to `lane * CHUNK_LEN`.
    #[inline(always)]
    fn put_key<T: KvElement>(key: &[T], to: &mut [f32]) {
        for (key, to) in key.chunks(Self::DEPTH).zip(to.iter_mut().step_by(CHUNK_LEN)) {
            let mut numbers = [0.0; MAX_DEPTH];
            widen(key, &mut numbers);
            *to = Self::lane(&numbers[..Self::DEPTH]);
        }
    }

    /// Writes `KEY_STEP` keys of `head_dim` values, `stride` values from each other, side by side, as
    /// [`Self::put_key`] does one.
    #[inline(always)]
    unsafe fn transpose_keys<T: KvElement>(from: *const T, stride: usize, head_dim: usize, to: *mut f32) {
        for key in 0..KEY_STEP {
            // SAFETY: the caller's promise: the keys are there, and so are their places, to the last one.
            unsafe {
                let len = (head_dim.div_ceil(Self::DEPTH) - 1) * CHUNK_LEN + 1;
                let to = std::slice::from_raw_parts_mut(to.add(key), len);
                Self::put_key(std::slice::from_raw_parts(from.add(key * stride), head_dim), to);
            }
        }
    }

    /// Writes the visible values to `to`, `[CHUNK_LEN / DEPTH, dims]`.
    #[inline(always)]
    unsafe fn put_values<T: KvElement>(values: &CachedValues<T>, dims: usize, to: &mut [f32]) {
        for key in values.visible.clone() {
            widen(values.of(key), &mut to[key * dims..]);
        }
    }

    /// Whether keys and values of such a cache can be read as they lie, by [`Self::logits`] and [`Self::add_values`].
    #[inline(always)]
    fn reads_cache<T: KvElement>(_: AttentionShape) -> bool {
        false
    }

    /// The logits of [`FEW_ROWS`] rows with `KEY_STEP` keys, `stride` from each other, to `to[row][at..]`: the sums over
    /// the dimensions, ascending; `q` is `[head_dim / DEPTH, FEW_ROWS]`.
    #[inline(always)]
    unsafe fn logits<T: KvElement>(
        _q: *const f32,
        _keys: *const T,
        _stride: usize,
        _head_dim: usize,
        _to: &mut [[f32; CHUNK_LEN]; FEW_ROWS],
        _at: usize,
    ) {
        unreachable!("only where `reads_cache` says so")
    }

    /// Adds to [`FEW_ROWS`] rows of `sums`, `len` from each other and shrunk first, the sums of packed powers times
    /// values, in the order of keys.
    #[inline(always)]
    unsafe fn add_values<T: KvElement>(
        _values: &CachedValues<T>,
        _powers: &[[f32; CHUNK_LEN]; FEW_ROWS],
        _shrink: &[f32; FEW_ROWS],
        _sums: &mut [f32],
        _len: usize,
    ) {
        unreachable!("only where `reads_cache` says so")
    }
}

/// The values of a head and a chunk where they lie in the cache.
pub(super) struct CachedValues<'a, T> {
    pub(super) cache: &'a [T],
    pub(super) slots: &'a [usize; CHUNK_LEN],
    /// From one slot to the next, and from a slot to its values of the head.
    pub(super) stride: usize,
    pub(super) offset: usize,
    pub(super) head_dim: usize,
    /// Keys that some row sees, relative to the chunk.
    pub(super) visible: Range<usize>,
}

impl<'a, T> CachedValues<'a, T> {
    /// The values of a key.
    #[inline(always)]
    pub(super) fn of(&self, key: usize) -> &'a [T] {
        &self.cache[self.slots[key] * self.stride + self.offset..][..self.head_dim]
    }
}

/// Exact widening.
#[inline(always)]
fn widen<T: KvElement>(from: &[T], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
}

impl Operands for Portable {
    type Vector = Self;
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    #[cfg(target_arch = "x86_64")]
    use crate::cpu::bf16_pairs;
    #[cfg(target_arch = "aarch64")]
    use crate::paged_attention::vector::Neon;
    #[cfg(target_arch = "x86_64")]
    use crate::paged_attention::vector::{Avx2, Avx512, Bf16Pairs};

    /// Keys of `T` that whole registers hold, and others, become what `lane` says of each key.
    fn check_keys<P: Operands, T: KvElement>(narrow: impl Fn(f32) -> T, shapes: &[(usize, usize)]) {
        for &(head_dim, stride) in shapes {
            let value = |key: usize, dim: usize| (key * 64 + dim) as f32 / 4.0;
            let mut keys = vec![narrow(-1.0); KEY_STEP * stride];
            for (key, dim) in (0..KEY_STEP).flat_map(|key| (0..head_dim).map(move |dim| (key, dim))) {
                keys[key * stride + dim] = narrow(value(key, dim));
            }
            let lanes = head_dim / P::DEPTH;
            let mut to = vec![0f32; lanes * CHUNK_LEN];
            // SAFETY: the callers have asked the processor; keys and places are there.
            unsafe { P::transpose_keys(keys.as_ptr(), stride, head_dim, to.as_mut_ptr()) };
            for (at, found) in to.into_iter().enumerate() {
                let (lane, key) = (at / CHUNK_LEN, at % CHUNK_LEN);
                let numbers: Vec<f32> =
                    (0..P::DEPTH).map(|at| narrow(value(key, lane * P::DEPTH + at)).to_f32()).collect();
                let expected = if key < KEY_STEP { P::lane(&numbers) } else { 0.0 };
                assert_eq!(
                    found.to_bits(),
                    expected.to_bits(),
                    "lane {lane} of key {key}, {head_dim} of {stride}"
                );
            }
        }
    }

    #[test]
    fn keys_are_transposed() {
        const ANY: [(usize, usize); 5] = [(64, 64), (64, 128), (32, 32), (10, 15), (48, 48)];
        check_keys::<Portable, f32>(|x| x, &ANY);
        check_keys::<Portable, bf16>(bf16::from_f32, &ANY);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                check_keys::<Avx2, f32>(|x| x, &ANY);
                check_keys::<Avx2, bf16>(bf16::from_f32, &ANY);
            }
            if is_x86_feature_detected!("avx512f") {
                check_keys::<Avx512, f32>(|x| x, &ANY);
                check_keys::<Avx512, bf16>(bf16::from_f32, &ANY);
            }
            if bf16_pairs() != crate::cpu::Bf16Pairs::None {
                check_keys::<Bf16Pairs, bf16>(bf16::from_f32, &ANY[..3]);
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            check_keys::<Neon, f32>(|x| x, &ANY);
            check_keys::<Neon, bf16>(bf16::from_f32, &ANY);
        }
    }
}
