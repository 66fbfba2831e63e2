//! Where keys and values lie: in the cache, or, if the cache is narrower than what they are multiplied with, widened beside
//! it, a chunk at a time.

use float8::F8E4M3;

use super::chunk::{Chunk, KEY_STEP, prefetch_next};
use super::cpu::KvElement;
use super::tile::{Rows, TileInput};
use super::{AttentionShape, CHUNK_LEN};

/// The caches of a layer, each `[num_blocks, block_size, kv_heads, head_dim]`.
#[derive(Clone, Copy)]
pub(super) enum Caches<'a, T> {
    /// In the type that attention is computed with.
    AsIs { k: &'a [T], v: &'a [T] },
    /// To be widened to it.
    E4m3 { k: &'a [F8E4M3], v: &'a [F8E4M3] },
}

/// Keys and values of some heads, in slots.
#[derive(Debug)]
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
    /// A whole cache.
    pub(super) fn all(shape: AttentionShape, k: &'a [T], v: &'a [T]) -> Self {
        let (head_stride, slot_stride) = (shape.head_dim, shape.num_kv_heads * shape.head_dim);
        Self { k, v, slot_stride, head_stride, first_head: 0 }
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
    pub(super) fn new(input: &TileInput<T>) -> Self {
        let len = input.kv_heads.len() * CHUNK_LEN * input.op.shape.head_dim;
        let zeros = || vec![T::of_e4m3(F8E4M3::ZERO); len];
        Self { k: zeros(), v: zeros() }
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
        let Some(narrow) = input.narrow else { return input.clone() };
        let head_dim = input.op.shape.head_dim;
        let (head_stride, slot_stride) = (CHUNK_LEN * head_dim, head_dim);
        for (head, kv_head) in input.kv_heads.clone().enumerate() {
            for key in chunk.visible_keys() {
                if key.is_multiple_of(KEY_STEP) {
                    prefetch_next(&narrow, head_dim, chunk, kv_head, key..key + KEY_STEP);
                }
                let (from, to) =
                    (narrow.place(chunk.slots[key], kv_head), head * head_stride + key * slot_stride);
                let (from, to) = (from..from + head_dim, to..to + head_dim);
                // SAFETY: the caller's promise.
                unsafe {
                    R::widen(&narrow.k[from.clone()], &mut self.k[to.clone()]);
                    R::widen(&narrow.v[from], &mut self.v[to]);
                }
            }
        }
        chunk.take_from_first_slots();
        let first_head = input.kv_heads.start;
        let cache = HeadsOfSlots { k: &self.k, v: &self.v, slot_stride, head_stride, first_head };
        TileInput { cache, ..input.clone() }
    }
}
