//! One task: some queries of one sequence against some key-value heads, chunk of keys by chunk of keys.
//!
//! Rows are pairs of a query and a head of the group, so all heads of a group share each key and value that is
//! fetched. Lanes are keys where queries meet keys and dimensions where values are summed, so that one row fills
//! vectors as well as many: both sums run down a lane in ascending order.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::chunk::{Chunk, KEY_STEP, prefetch_chunk};
use super::cpu::KvElement;
use super::vector::{Vector, exp2_nonpositive};
use super::{CHUNK_LEN, PagedAttention};
use crate::kv_cache::BlockTable;

/// What a tile is computed from. The op has checked that the table covers what the queries see.
pub(super) struct TileInput<'a, T> {
    pub(super) op: PagedAttention<'a>,
    /// All queries, `[n, heads, head_dim]`.
    pub(super) q: &'a [f32],
    /// All keys, `[num_blocks, block_size, kv_heads, head_dim]`.
    pub(super) k: &'a [T],
    /// All values, as the keys.
    pub(super) v: &'a [T],
    pub(super) table: &'a BlockTable,
    /// Key-value heads, one after the other.
    pub(super) kv_heads: Range<usize>,
    /// Row of `q` of the first query, and its absolute position.
    pub(super) first_query: usize,
    pub(super) first_position: usize,
    pub(super) num_queries: usize,
}

/// Running state and scratch of one key-value head; `rows` are padded to whole steps, `dims` to whole vectors.
pub(super) struct Tile<V> {
    kv_head: usize,
    rows: usize,
    head_dim: usize,
    dims: usize,
    /// Queries, scaled for powers of two, `[rows, head_dim]`.
    q: Vec<f32>,
    /// Weighted values so far, `[rows, dims]`.
    out: Vec<f32>,
    /// Largest logit so far and sum of powers relative to it, `[rows]`.
    max: Vec<f32>,
    sum: Vec<f32>,
    /// Logits of one step of rows, then their powers, and what the rows' earlier values shrink by.
    probs: [[f32; CHUNK_LEN]; ROW_STEP],
    shrink: [f32; ROW_STEP],
    vector: std::marker::PhantomData<V>,
}

/// Rows are taken in steps of this many.
const ROW_STEP: usize = 4;

impl<V: Vector> Tile<V> {
    /// Computes `[num_queries, kv_heads * group_size, head_dim]` into `out`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn run<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
        let mut tiles: Vec<Self> = input.kv_heads.clone().map(|kv_head| Self::new(input, kv_head)).collect();
        let rows = (input.num_queries * input.op.shape.group_size()).next_multiple_of(ROW_STEP);
        let mut chunk = Chunk::new(rows, input.op.shape.head_dim.next_multiple_of(V::LANES));
        let first = input.op.first_visible(input.first_position);
        let end = input.first_position + input.num_queries;
        for start in (first / CHUNK_LEN * CHUNK_LEN..end).step_by(CHUNK_LEN) {
            chunk.begin(input, start);
            prefetch_chunk::<V, T>(input, start + CHUNK_LEN);
            for tile in &mut tiles {
                // SAFETY: the instructions by the condition above; the chunk has the rows' width.
                unsafe {
                    chunk.fetch::<V, T>(input, tile.kv_head);
                    tile.add_chunk(&chunk);
                }
            }
        }
        tiles.iter().for_each(|tile| tile.finish(input, out));
    }

    /// The state before any key: the sink, which has weight but no value.
    #[inline(always)]
    fn new<T>(input: &TileInput<T>, kv_head: usize) -> Self {
        let shape = input.op.shape;
        let (group_size, head_dim) = (shape.group_size(), shape.head_dim);
        let rows = (input.num_queries * group_size).next_multiple_of(ROW_STEP);
        let dims = head_dim.next_multiple_of(V::LANES);
        let mut tile = Self {
            kv_head,
            rows,
            head_dim,
            dims,
            q: vec![0.0; rows * head_dim],
            out: vec![0.0; rows * dims],
            max: vec![0.0; rows],
            sum: vec![1.0; rows],
            probs: [[0.0; CHUNK_LEN]; ROW_STEP],
            shrink: [0.0; ROW_STEP],
            vector: std::marker::PhantomData,
        };
        let scale = input.op.layer.scale * LOG2_E;
        for query in 0..input.num_queries {
            for head in 0..group_size {
                let row = query * group_size + head;
                let head_idx = kv_head * group_size + head;
                tile.max[row] = input.op.layer.sinks[head_idx] * LOG2_E;
                let at = ((input.first_query + query) * shape.num_heads + head_idx) * head_dim;
                let to = &mut tile.q[row * head_dim..][..head_dim];
                to.iter_mut().zip(&input.q[at..at + head_dim]).for_each(|(to, x)| *to = x * scale);
            }
        }
        tile
    }

    /// Merges a fetched chunk into the state.
    ///
    /// # Safety
    /// As for [`Self::run`]; the chunk is for these rows and dimensions.
    #[inline(always)]
    unsafe fn add_chunk(&mut self, chunk: &Chunk) {
        let keys = chunk.keys.clone();
        for row in (0..self.rows).step_by(ROW_STEP) {
            // SAFETY: the conditions are the caller's; rows are whole steps.
            unsafe {
                let mut key = keys.start;
                while key < keys.end {
                    let vectors = ((keys.end - key) / V::LANES).min(V::MAX_VECTORS);
                    match vectors {
                        4.. => self.logits::<4>(chunk, row, key),
                        2 | 3 => self.logits::<2>(chunk, row, key),
                        _ => self.logits::<1>(chunk, row, key),
                    }
                    key += V::LANES * if vectors == 3 { 2 } else { vectors };
                }
                if chunk.masked {
                    self.mask(chunk, row);
                }
                self.softmax(row, keys.clone());
                let mut dim = 0;
                while dim < self.dims {
                    let vectors = ((self.dims - dim) / V::LANES).min(V::MAX_VECTORS);
                    match vectors {
                        4.. => self.values::<4>(chunk, row, dim),
                        2 | 3 => self.values::<2>(chunk, row, dim),
                        _ => self.values::<1>(chunk, row, dim),
                    }
                    dim += V::LANES * if vectors == 3 { 2 } else { vectors };
                }
            }
        }
    }

    /// `probs[key] = sum over dim of k[key, dim] * q[dim]`, ascending, for `N` vectors of keys.
    #[inline(always)]
    unsafe fn logits<const N: usize>(&mut self, chunk: &Chunk, row: usize, key: usize) {
        // SAFETY: key + N * LANES <= CHUNK_LEN and row + ROW_STEP <= rows; see the buffers' sizes.
        unsafe {
            let q = self.q.as_ptr().add(row * self.head_dim);
            let k = chunk.k.as_ptr().add(key);
            let mut acc = [[V::splat(0.0); N]; ROW_STEP];
            for dim in 0..self.head_dim {
                let mut keys = [V::splat(0.0); N];
                for (n, keys) in keys.iter_mut().enumerate() {
                    *keys = V::load(k.add(dim * CHUNK_LEN + n * V::LANES));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let q = V::splat(*q.add(r * self.head_dim + dim));
                    for (acc, keys) in acc.iter_mut().zip(keys) {
                        *acc = keys.mul_add(q, *acc);
                    }
                }
            }
            for (probs, acc) in self.probs.iter_mut().zip(acc) {
                for (n, acc) in acc.into_iter().enumerate() {
                    acc.store(probs.as_mut_ptr().add(key + n * V::LANES));
                }
            }
        }
    }

    /// Minus infinity where a row of the step from `row` does not see a key.
    #[inline(always)]
    unsafe fn mask(&mut self, chunk: &Chunk, row: usize) {
        let hidden = f32::NEG_INFINITY;
        for (step, probs) in self.probs.iter_mut().enumerate() {
            // SAFETY: keys are whole vectors within CHUNK_LEN.
            unsafe {
                let first = V::splat(chunk.first[row + step]);
                let last = V::splat(chunk.last[row + step]);
                for key in chunk.keys.clone().step_by(V::LANES) {
                    let at = probs.as_mut_ptr().add(key);
                    let position = V::load(POSITIONS.as_ptr().add(key));
                    let logit = V::load(at).where_ge(position, first, V::splat(hidden));
                    logit.where_ge(last, position, V::splat(hidden)).store(at);
                }
            }
        }
    }

    /// Turns the logits of a step of rows into powers relative to the largest so far, and merges maxima and sums into
    /// the state. A row that sees nothing of the chunk leaves its state as it is: it shrinks by 1 and adds 0.
    #[inline(always)]
    unsafe fn softmax(&mut self, row: usize, keys: Range<usize>) {
        // SAFETY: keys are whole vectors within CHUNK_LEN.
        unsafe {
            let mut largest = [V::splat(f32::MIN / 2.0); ROW_STEP];
            for (probs, largest) in self.probs.iter().zip(&mut largest) {
                for key in keys.clone().step_by(V::LANES) {
                    *largest = largest.max(V::load(probs.as_ptr().add(key)));
                }
            }
            let mut new_max = [0f32; ROW_STEP];
            for (step, new_max) in new_max.iter_mut().enumerate() {
                let old_max = &mut self.max[row + step];
                *new_max = largest[step].largest().max(*old_max);
                self.shrink[step] = exp2_nonpositive(V::splat(*old_max - *new_max)).first();
                *old_max = *new_max;
            }
            for (step, probs) in self.probs.iter_mut().enumerate() {
                let max = V::splat(new_max[step]);
                let mut sums = [V::splat(0.0); 2];
                for key in keys.clone().step_by(V::LANES) {
                    let at = probs.as_mut_ptr().add(key);
                    let power = exp2_nonpositive(V::load(at).sub(max));
                    power.store(at);
                    let sum = &mut sums[key % KEY_STEP / V::LANES];
                    *sum = sum.add(power);
                }
                let sum = if V::LANES < KEY_STEP { sums[0].add(sums[1]) } else { sums[0] };
                let sum = sum.sum_by_halves();
                self.sum[row + step] = self.sum[row + step] * self.shrink[step] + sum;
            }
        }
    }

    /// Sums `probs[key] * v[key]` ascending over the chunk for `N` vectors of dimensions and merges it into the state.
    #[inline(always)]
    unsafe fn values<const N: usize>(&mut self, chunk: &Chunk, row: usize, dim: usize) {
        let dims = self.dims;
        // SAFETY: dim + N * LANES <= dims, row + ROW_STEP <= rows, keys < CHUNK_LEN; see the buffers' sizes.
        unsafe {
            let mut acc = [[V::splat(0.0); N]; ROW_STEP];
            for key in chunk.keys.clone() {
                let v = chunk.v.as_ptr().add(key * dims + dim);
                let mut values = [V::splat(0.0); N];
                for (n, values) in values.iter_mut().enumerate() {
                    *values = V::load(v.add(n * V::LANES));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let prob = V::splat(*self.probs.as_ptr().cast::<f32>().add(r * CHUNK_LEN + key));
                    for (acc, values) in acc.iter_mut().zip(values) {
                        *acc = values.mul_add(prob, *acc);
                    }
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                let shrink = V::splat(self.shrink[r]);
                for (n, acc) in acc.into_iter().enumerate() {
                    let out = self.out.as_mut_ptr().add((row + r) * dims + dim + n * V::LANES);
                    V::load(out).mul_add(shrink, acc).store(out);
                }
            }
        }
    }

    /// Divides by the sums, sink included, into the places of this head.
    #[inline(always)]
    fn finish<T>(&self, input: &TileInput<T>, out: &mut [f32]) {
        let group_size = input.op.shape.group_size();
        let first_head = (self.kv_head - input.kv_heads.start) * group_size;
        for row in 0..input.num_queries * group_size {
            let (query, head) = (row / group_size, row % group_size);
            let at = query * input.kv_heads.len() * group_size + first_head + head;
            let out = &mut out[at * self.head_dim..][..self.head_dim];
            for (out, sum) in out.iter_mut().zip(&self.out[row * self.dims..]) {
                *out = sum / self.sum[row];
            }
        }
    }
}

/// The positions of a chunk.
static POSITIONS: [f32; CHUNK_LEN] = {
    let mut positions = [0.0; CHUNK_LEN];
    let mut at = 0;
    while at < CHUNK_LEN {
        positions[at] = at as f32;
        at += 1;
    }
    positions
};
