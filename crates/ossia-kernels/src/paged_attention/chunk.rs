//! Some positions of the cache as a tile takes them: found through the block table, and, for vectors, fetched with keys
//! transposed.

use std::ops::Range;

use super::CHUNK_LEN;
use super::cpu::KvElement;
use super::operands::{CachedValues, Operands};
use super::staged::HeadsOfSlots;
use super::tile::TileInput;
use crate::cpu::prefetch;

/// Keys are taken in steps of this many, and summed in as many parts; divides [`CHUNK_LEN`].
pub(super) const KEY_STEP: usize = 16;

/// Positions of a chunk, and what the rows see of it.
pub(super) struct Chunk {
    start: usize,
    /// Positions that some row sees.
    visible: Range<usize>,
    /// Keys to take, relative to the chunk, in steps of [`KEY_STEP`].
    pub(super) keys: Range<usize>,
    /// Where each of the keys lies in the cache.
    pub(super) slots: [usize; CHUNK_LEN],
    /// Where those of the next chunk lie, as many as the queries go on to.
    next_slots: [usize; CHUNK_LEN],
    next_keys: usize,
    /// Whether some row does not see all of it.
    pub(super) masked: bool,
    /// First and last visible position of each row, relative to the chunk, `[rows]`.
    pub(super) first: Vec<f32>,
    pub(super) last: Vec<f32>,
}

impl Chunk {
    /// No positions yet, for `rows` rows.
    pub(super) fn new(rows: usize) -> Self {
        Self {
            start: 0,
            visible: 0..0,
            keys: 0..0,
            slots: [0; CHUNK_LEN],
            next_slots: [0; CHUNK_LEN],
            next_keys: 0,
            masked: false,
            first: vec![0.0; rows],
            last: vec![0.0; rows],
        }
    }

    /// Goes on to the chunk from position `start`: what the queries see of it.
    #[inline(always)]
    pub(super) fn begin<T>(&mut self, input: &TileInput<T>, start: usize) {
        let end = input.first_position + input.num_queries;
        let first = input.op.first_visible(input.first_position);
        self.start = start;
        self.visible = first.max(start)..end.min(start + CHUNK_LEN);
        self.keys = (self.visible.start - start) / KEY_STEP * KEY_STEP
            ..(self.visible.end - start).next_multiple_of(KEY_STEP);
        put_slots(input, start, self.keys.clone(), &mut self.slots);
        self.next_keys = end.saturating_sub(start + CHUNK_LEN).min(CHUNK_LEN);
        put_slots(input, start + CHUNK_LEN, 0..self.next_keys, &mut self.next_slots);
        let sees_start = input.op.first_visible(end - 1) <= start;
        self.masked = !(sees_start && start + CHUNK_LEN <= input.first_position + 1);
        if !self.masked {
            return;
        }
        let group_size = input.op.shape.group_size();
        for query in 0..input.num_queries {
            let position = input.first_position + query;
            let first = input.op.first_visible(position);
            let rows = query * group_size..(query + 1) * group_size;
            // Distances of at most the context: exact in f32 up to 2^24, and only their order matters.
            self.first[rows.clone()].fill(first as f32 - start as f32);
            self.last[rows].fill(position as f32 - start as f32);
        }
    }

    /// The values of a head where they lie.
    #[inline(always)]
    pub(super) fn values<'a, T>(&'a self, input: &TileInput<'a, T>, kv_head: usize) -> CachedValues<'a, T> {
        CachedValues {
            cache: input.cache.v,
            slots: &self.slots,
            stride: input.cache.slot_stride,
            offset: input.cache.place(0, kv_head),
            head_dim: input.op.shape.head_dim,
            visible: self.visible_keys(),
        }
    }

    /// Says that the chunk's keys lie one after the other, and that nothing more is to be asked of memory.
    #[inline(always)]
    pub(super) fn take_from_first_slots(&mut self) {
        self.slots = std::array::from_fn(|key| key);
        self.next_keys = 0;
    }

    /// The keys that some row sees, relative to the chunk.
    #[inline(always)]
    pub(super) fn visible_keys(&self) -> Range<usize> {
        self.visible.start - self.start..self.visible.end - self.start
    }
}

/// Where keys `keys` of the chunk from position `start` lie in the cache.
#[inline(always)]
fn put_slots<T>(input: &TileInput<T>, start: usize, keys: Range<usize>, slots: &mut [usize; CHUNK_LEN]) {
    let (table, block_size) = (input.table, input.op.shape.block_size);
    for (key, slot) in slots.iter_mut().enumerate().take(keys.end).skip(keys.start) {
        let position = start + key;
        // A step may begin before the first block or end after the last one, where nobody sees it.
        let block_idx = (position / block_size).checked_sub(table.first_block_idx as usize);
        let block = block_idx.and_then(|idx| table.blocks.get(idx)).map_or(0, |block| *block as usize);
        *slot = block * block_size + position % block_size;
    }
}

/// Keys and values of a chunk and one key-value head, as the [`Operands`] that they were fetched for.
pub(super) struct Fetched {
    dims: usize,
    /// `[head_dim / DEPTH, CHUNK_LEN]`.
    pub(super) k: Vec<f32>,
    /// `[CHUNK_LEN / DEPTH, dims]`.
    pub(super) v: Vec<f32>,
}

impl Fetched {
    /// Room for `dims` dimensions, whole vectors of them.
    pub(super) fn new(dims: usize) -> Self {
        Self { dims, k: vec![0.0; dims * CHUNK_LEN], v: vec![0.0; CHUNK_LEN * dims] }
    }

    /// Copies the visible positions of a key-value head to their places, keys perhaps with others beside them.
    ///
    /// # Safety
    /// The processor has the instructions of `P`.
    #[inline(always)]
    pub(super) unsafe fn fetch<P: Operands, T: KvElement>(
        &mut self,
        input: &TileInput<T>,
        chunk: &Chunk,
        kv_head: usize,
    ) {
        let shape = input.op.shape;
        let (head_dim, cache) = (shape.head_dim, input.cache);
        if shape.block_size.is_multiple_of(KEY_STEP) {
            // A step of keys then lies in one block.
            for step in chunk.keys.clone().step_by(KEY_STEP) {
                let keys = cache.step_of_keys(chunk.slots[step], kv_head, head_dim);
                // SAFETY: `keys` are there, and a step's places in `k`.
                unsafe {
                    let to = self.k[step..].as_mut_ptr();
                    P::transpose_keys(keys.as_ptr(), cache.slot_stride, head_dim, to);
                };
            }
        } else {
            for key in chunk.visible_keys() {
                let at = cache.place(chunk.slots[key], kv_head);
                P::put_key(&cache.k[at..][..head_dim], &mut self.k[key..]);
            }
        }
        // SAFETY: the condition is the caller's.
        unsafe { P::put_values(&chunk.values(input, kv_head), self.dims, &mut self.v) };
    }
}

/// Asks memory for a head's keys and values of the chunk after this one: those of `keys`, relative to it.
#[inline(always)]
pub(super) fn prefetch_next<T>(
    cache: &HeadsOfSlots<T>,
    head_dim: usize,
    chunk: &Chunk,
    kv_head: usize,
    keys: Range<usize>,
) {
    for slot in &chunk.next_slots[keys.start.min(chunk.next_keys)..keys.end.min(chunk.next_keys)] {
        let at = cache.place(*slot, kv_head);
        prefetch_all(&cache.k[at..at + head_dim]);
        prefetch_all(&cache.v[at..at + head_dim]);
    }
}

/// Asks for every cache line of `values`.
#[inline(always)]
fn prefetch_all<T>(values: &[T]) {
    let first = values.as_ptr().cast::<u8>();
    for at in (0..size_of_val(values)).step_by(64) {
        prefetch(first.wrapping_add(at));
    }
}
