//! Some positions of the cache as a tile takes them: found through the block table, widened to f32, and keys transposed.

use std::ops::Range;

use super::CHUNK_LEN;
use super::cpu::KvElement;
use super::tile::TileInput;
use super::vector::Vector;

/// Keys are taken in steps of this many, and summed in as many parts; divides [`CHUNK_LEN`].
pub(super) const KEY_STEP: usize = 16;

/// What a chunk holds for one key-value head, and what the rows see of it.
pub(super) struct Chunk {
    start: usize,
    /// Positions that some row sees.
    visible: Range<usize>,
    /// Keys to take, relative to the chunk, in steps of [`KEY_STEP`].
    pub(super) keys: Range<usize>,
    /// Where each of the keys lies in the cache.
    pub(super) slots: [usize; CHUNK_LEN],
    /// Whether some row does not see all of it.
    pub(super) masked: bool,
    /// First and last visible position of each row, relative to the chunk, `[rows]`.
    pub(super) first: Vec<f32>,
    pub(super) last: Vec<f32>,
    dims: usize,
    /// `[head_dim, CHUNK_LEN]`.
    pub(super) k: Vec<f32>,
    /// `[CHUNK_LEN, dims]`.
    pub(super) v: Vec<f32>,
}

impl Chunk {
    /// Buffers for `rows` queries and `dims` dimensions, whole vectors of them.
    pub(super) fn new(rows: usize, dims: usize) -> Self {
        Self {
            start: 0,
            visible: 0..0,
            keys: 0..0,
            slots: [0; CHUNK_LEN],
            masked: false,
            first: vec![0.0; rows],
            last: vec![0.0; rows],
            dims,
            k: vec![0.0; dims * CHUNK_LEN],
            v: vec![0.0; CHUNK_LEN * dims],
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
        let (table, block_size) = (input.table, input.op.shape.block_size);
        for (key, slot) in self.slots.iter_mut().enumerate().take(self.keys.end).skip(self.keys.start) {
            let position = start + key;
            // A step may begin before the first block or end after the last one, where nobody sees it.
            let block_idx = (position / block_size).checked_sub(table.first_block_idx as usize);
            let block = block_idx.and_then(|idx| table.blocks.get(idx)).map_or(0, |block| *block as usize);
            *slot = block * block_size + position % block_size;
        }
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

    /// The keys that some row sees, relative to the chunk.
    #[inline(always)]
    pub(super) fn visible_keys(&self) -> Range<usize> {
        self.visible.start - self.start..self.visible.end - self.start
    }

    /// Copies the visible positions of a key-value head to their places, keys perhaps with others beside them.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn fetch<V: Vector, T: KvElement>(&mut self, input: &TileInput<T>, kv_head: usize) {
        let shape = input.op.shape;
        let (head_dim, stride) = (shape.head_dim, shape.num_kv_heads * shape.head_dim);
        // A step of keys then lies in one block.
        let whole_steps = shape.block_size.is_multiple_of(KEY_STEP);
        let visible = self.visible_keys();
        for step in self.keys.clone().step_by(KEY_STEP) {
            if whole_steps {
                let at = self.slots[step] * stride + kv_head * head_dim;
                let keys = &input.k[at..][..(KEY_STEP - 1) * stride + head_dim];
                // SAFETY: `keys` are there, and a step's places in `k`.
                unsafe { V::transpose_keys(keys.as_ptr(), stride, head_dim, self.k[step..].as_mut_ptr()) };
            }
            for key in visible.start.max(step)..visible.end.min(step + KEY_STEP) {
                let at = self.slots[key] * stride + kv_head * head_dim;
                if !whole_steps {
                    let to = self.k[key..].iter_mut().step_by(CHUNK_LEN);
                    to.zip(&input.k[at..][..head_dim]).for_each(|(to, from)| *to = from.to_f32());
                }
                widen(&input.v[at..][..head_dim], &mut self.v[key * self.dims..]);
            }
        }
    }
}

/// Asks memory for a head's keys and values of the chunk from position `start`.
#[inline(always)]
pub(super) fn prefetch<V: Vector, T>(input: &TileInput<T>, kv_head: usize, start: usize) {
    let shape = input.op.shape;
    let end = input.first_position + input.num_queries;
    for run in runs(input, start.min(end)..end.min(start + CHUNK_LEN)) {
        for cache in [input.k, input.v] {
            for slot in run.slot..run.slot + run.len {
                V::prefetch(
                    &cache[(slot * shape.num_kv_heads + kv_head) * shape.head_dim..][..shape.head_dim],
                );
            }
        }
    }
}

/// Positions that follow each other in one block: the slot of the first, and how many.
struct Run {
    slot: usize,
    len: usize,
}

/// Cuts `positions` at the ends of blocks.
#[inline(always)]
fn runs<T>(input: &TileInput<T>, positions: Range<usize>) -> impl Iterator<Item = Run> {
    let (table, block_size) = (input.table, input.op.shape.block_size);
    let mut position = positions.start;
    std::iter::from_fn(move || {
        if position >= positions.end {
            return None;
        }
        let (block_idx, offset) = (position / block_size, position % block_size);
        let block = table.blocks[block_idx - table.first_block_idx as usize] as usize;
        let len = (block_size - offset).min(positions.end - position);
        let run = Run { slot: block * block_size + offset, len };
        position += len;
        Some(run)
    })
}

/// Exact widening of one value.
#[inline(always)]
fn widen<T: KvElement>(from: &[T], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.to_f32());
}
