//! Where keys and values lie: in the cache, or, if the cache is narrower than what they are multiplied with, widened beside
//! it, a chunk at a time.

use float8::F8E4M3;

use super::CHUNK_LEN;
use super::chunk::{Chunk, KEY_STEP, prefetch_next};
use super::cpu::KvElement;
use super::tile::{Rows, TileInput};
use crate::int8_heads;

/// The caches of a layer.
#[derive(Clone, Copy)]
pub(super) enum Caches<'a, T> {
    /// In the type that attention is computed with.
    AsIs(HeadsOfSlots<'a, T>),
    /// To be widened to it, exactly.
    E4m3(HeadsOfSlots<'a, F8E4M3>),
    /// Heads as [`int8_heads`] keeps them, to be widened in one rounding.
    Int8(HeadsOfSlots<'a, u8>),
}

/// Elements of a narrow cache. The unsafe method needs a processor with the instructions of `R`.
trait NarrowElement: Copy {
    /// Widens a head.
    unsafe fn widen<T: KvElement, R: Rows<T>>(from: &[Self], to: &mut [T]);
}

impl NarrowElement for F8E4M3 {
    #[inline(always)]
    unsafe fn widen<T: KvElement, R: Rows<T>>(from: &[Self], to: &mut [T]) {
        // SAFETY: the condition is the caller's.
        unsafe { R::widen_e4m3(from, to) }
    }
}

impl NarrowElement for u8 {
    #[inline(always)]
    unsafe fn widen<T: KvElement, R: Rows<T>>(from: &[Self], to: &mut [T]) {
        int8_heads::widen(from, to, T::of_f32);
    }
}

/// Keys and values of some heads, in slots.
pub(super) struct HeadsOfSlots<'a, T> {
    pub(super) k: &'a [T],
    pub(super) v: &'a [T],
    /// From one slot of a head to the next.
    pub(super) slot_stride: usize,
    /// From one head to the next.
    head_stride: usize,
    first_head: usize,
}

impl<T> Clone for HeadsOfSlots<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for HeadsOfSlots<'_, T> {}

impl<'a, T> HeadsOfSlots<'a, T> {
    /// Whole caches `[num_blocks, block_size, kv_heads, head_len]`.
    pub(super) fn all(num_kv_heads: usize, head_len: usize, k: &'a [T], v: &'a [T]) -> Self {
        Self { k, v, slot_stride: num_kv_heads * head_len, head_stride: head_len, first_head: 0 }
    }

    /// Where a head of a slot begins.
    #[inline(always)]
    pub(super) fn place(&self, slot: usize, kv_head: usize) -> usize {
        slot * self.slot_stride + (kv_head - self.first_head) * self.head_stride
    }

    /// A head's keys of `slot` and the fifteen slots after it, with what lies between them.
    #[inline(always)]
    pub(super) fn step_of_keys(&self, slot: usize, kv_head: usize, head_dim: usize) -> &'a [T] {
        &self.k[self.place(slot, kv_head)..][..(KEY_STEP - 1) * self.slot_stride + head_dim]
    }
}

/// The keys and values of a task's heads from one chunk, widened: `[heads, CHUNK_LEN, head_dim]`.
pub(super) struct Staged<T> {
    k: Vec<T>,
    v: Vec<T>,
}

impl<T: KvElement> Staged<T> {
    /// Room for a chunk of the task's heads, if its caches are to be widened.
    pub(super) fn new(input: &TileInput<T>) -> Option<Self> {
        if let Caches::AsIs(_) = input.caches {
            return None;
        }
        let len = input.kv_heads.len() * CHUNK_LEN * input.op.shape.head_dim;
        let zeros = || vec![T::of_e4m3(F8E4M3::ZERO); len];
        Some(Self { k: zeros(), v: zeros() })
    }

    /// Widens the keys and values of a chunk that some row sees, and gives the input that has them; the chunk then names
    /// their places there. Asks memory for the next chunk's on the way.
    ///
    /// # Safety
    /// The processor has the instructions of `R`.
    #[inline(always)]
    pub(super) unsafe fn widen<'a, R: Rows<T>>(
        &'a mut self,
        input: &TileInput<'a, T>,
        chunk: &mut Chunk,
    ) -> TileInput<'a, T> {
        // SAFETY: the condition is the caller's.
        unsafe {
            match input.caches {
                Caches::AsIs(_) => return input.clone(),
                Caches::E4m3(cache) => self.widen_heads::<_, R>(&cache, input, chunk),
                Caches::Int8(cache) => self.widen_heads::<_, R>(&cache, input, chunk),
            }
        }
        chunk.take_from_first_slots();
        let (first_head, slot_stride) = (input.kv_heads.start, input.op.shape.head_dim);
        let head_stride = CHUNK_LEN * slot_stride;
        let cache = HeadsOfSlots { k: &self.k, v: &self.v, slot_stride, head_stride, first_head };
        TileInput { cache, ..input.clone() }
    }

    /// Widens what some row sees to its places.
    ///
    /// # Safety
    /// The processor has the instructions of `R`.
    #[inline(always)]
    unsafe fn widen_heads<N: NarrowElement, R: Rows<T>>(
        &mut self,
        cache: &HeadsOfSlots<N>,
        input: &TileInput<T>,
        chunk: &Chunk,
    ) {
        let (head_dim, head_len) = (input.op.shape.head_dim, cache.head_stride);
        for (head, kv_head) in input.kv_heads.clone().enumerate() {
            for key in chunk.visible_keys() {
                if key.is_multiple_of(KEY_STEP) {
                    prefetch_next(cache, head_len, chunk, kv_head, key..key + KEY_STEP);
                }
                let (from, to) =
                    (cache.place(chunk.slots[key], kv_head), (head * CHUNK_LEN + key) * head_dim);
                let (from, to) = (from..from + head_len, to..to + head_dim);
                // SAFETY: the caller's promise.
                unsafe {
                    N::widen::<T, R>(&cache.k[from.clone()], &mut self.k[to.clone()]);
                    N::widen::<T, R>(&cache.v[from], &mut self.v[to]);
                }
            }
        }
    }
}
