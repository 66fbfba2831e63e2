//! One task: some queries of one sequence against some key-value heads, span of keys by span and chunk by chunk.
//!
//! Rows are pairs of a query and a head of the group, so all heads of a group share each key and value that is
//! fetched. Lanes are keys where queries meet keys and dimensions where values are summed, so that one row fills
//! vectors as well as many: both sums run down a lane in ascending order.

use std::f32::consts::LOG2_E;
use std::ops::Range;

use super::chunk::{Chunk, KEY_STEP, prefetch};
use super::cpu::KvElement;
use super::softmax;
use super::sums::{Sums, padded};
use super::vector::{FEW_ROWS, Vector};
use super::{CHUNK_LEN, PagedAttention, SPAN_LEN};
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
    /// The only spans to compute, each for itself, or all.
    pub(super) spans: Option<Range<usize>>,
}

/// Running state and scratch of one key-value head; `rows` are padded to whole steps.
pub(super) struct Tile<V> {
    kv_head: usize,
    rows: usize,
    head_dim: usize,
    dims: usize,
    /// Queries, scaled for powers of two, `[rows, head_dim]`; of few rows that read the cache `[_, head_dim, FEW_ROWS]`.
    q: Vec<f32>,
    /// What the span's keys so far gave, [`Sums`] of each row.
    span: Vec<f32>,
    /// What the sink and the spans before gave, likewise.
    total: Vec<f32>,
    /// Logits of one step of rows, then their powers.
    probs: [[f32; CHUNK_LEN]; FEW_ROWS],
    vector: std::marker::PhantomData<V>,
}

/// Rows are taken in steps of this many.
const ROW_STEP: usize = 4;
/// How many positions before they are needed keys and values are asked for.
const AHEAD: usize = CHUNK_LEN;
/// Most rows that read keys and values as they lie in the cache, where the processor can: fewer than make up for fetching
/// them first.
const MAX_FEW_ROWS: usize = 2 * FEW_ROWS;

impl<V: Vector> Tile<V> {
    /// Computes `[num_queries, kv_heads * group_size, head_dim]` into `out`, or, if spans are named, the [`Sums`] of each,
    /// `[spans, num_queries, kv_heads * group_size]`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn run<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
        let mut tiles: Vec<Self> = input.kv_heads.clone().map(|kv_head| Self::new(input, kv_head)).collect();
        let (rows, reads_cache) = Self::rows(input);
        let mut chunk = Chunk::new(rows, padded(input.op.shape.head_dim));
        let first = input.op.first_visible(input.first_position);
        let end = input.first_position + input.num_queries;
        let spans = input.spans.clone().unwrap_or(first / SPAN_LEN..end.div_ceil(SPAN_LEN));
        let out_len = out.len() / if input.spans.is_some() { spans.len() } else { 1 };
        for (idx, span) in spans.enumerate() {
            let first = first.max(span * SPAN_LEN) / CHUNK_LEN * CHUNK_LEN;
            for start in (first..end.min((span + 1) * SPAN_LEN)).step_by(CHUNK_LEN) {
                chunk.begin(input, start);
                for tile in &mut tiles {
                    prefetch::<V, T>(input, tile.kv_head, start + AHEAD);
                    // SAFETY: the instructions by the condition above; the chunk has the rows' width.
                    unsafe {
                        if reads_cache {
                            tile.add_from_cache(input, &chunk);
                        } else {
                            chunk.fetch::<V, T>(input, tile.kv_head);
                            tile.add_chunk(&chunk);
                        }
                    }
                }
            }
            for tile in &mut tiles {
                if input.spans.is_some() {
                    tile.put_sums(input, &mut out[idx * out_len..][..out_len]);
                }
                // SAFETY: the condition above.
                unsafe { tile.end_span() };
            }
        }
        if input.spans.is_none() {
            tiles.iter().for_each(|tile| tile.put(input, out));
        }
    }

    /// The rows of a head, in whole steps, and whether they read the cache as it lies.
    #[inline(always)]
    fn rows<T: KvElement>(input: &TileInput<T>) -> (usize, bool) {
        let rows = input.num_queries * input.op.shape.group_size();
        match rows <= MAX_FEW_ROWS && V::reads_cache::<T>(input.op.shape) {
            true => (rows.next_multiple_of(FEW_ROWS), true),
            false => (rows.next_multiple_of(ROW_STEP), false),
        }
    }

    /// The state before any key.
    #[inline(always)]
    fn new<T: KvElement>(input: &TileInput<T>, kv_head: usize) -> Self {
        let shape = input.op.shape;
        let (group_size, head_dim) = (shape.group_size(), shape.head_dim);
        let (rows, reads_cache) = Self::rows(input);
        let dims = padded(head_dim);
        let mut tile = Self {
            kv_head,
            rows,
            head_dim,
            dims,
            q: vec![0.0; rows * head_dim],
            span: vec![0.0; rows * Sums::len(dims)],
            total: vec![0.0; rows * Sums::len(dims)],
            probs: [[0.0; CHUNK_LEN]; FEW_ROWS],
            vector: std::marker::PhantomData,
        };
        let scale = input.op.layer.scale * LOG2_E;
        for row in 0..rows {
            Sums::of_nothing(&mut tile.span[row * Sums::len(dims)..][..Sums::len(dims)]);
        }
        for query in 0..input.num_queries {
            for head in 0..group_size {
                let row = query * group_size + head;
                let head_idx = kv_head * group_size + head;
                let total = &mut tile.total[row * Sums::len(dims)..][..Sums::len(dims)];
                Sums::of_sink(total, input.op.layer.sinks[head_idx]);
                let at = ((input.first_query + query) * shape.num_heads + head_idx) * head_dim;
                for (dim, x) in input.q[at..at + head_dim].iter().enumerate() {
                    let to = match reads_cache {
                        true => (row / FEW_ROWS * head_dim + dim) * FEW_ROWS + row % FEW_ROWS,
                        false => row * head_dim + dim,
                    };
                    tile.q[to] = x * scale;
                }
            }
        }
        tile
    }

    /// Adds the span to the total and goes on to the next.
    ///
    /// # Safety
    /// As for [`Self::run`].
    #[inline(always)]
    unsafe fn end_span(&mut self) {
        let len = Sums::len(self.dims);
        for (total, span) in self.total.chunks_exact_mut(len).zip(self.span.chunks_exact_mut(len)) {
            // SAFETY: the condition is the caller's.
            unsafe { Sums::merge::<V>(total, span) };
            Sums::of_nothing(span);
        }
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
                let shrink = self.powers::<ROW_STEP>(chunk, row);
                let mut dim = 0;
                while dim < self.dims {
                    let vectors = ((self.dims - dim) / V::LANES).min(V::MAX_VECTORS);
                    match vectors {
                        4.. => self.values::<4>(chunk, row, dim, &shrink),
                        2 | 3 => self.values::<2>(chunk, row, dim, &shrink),
                        _ => self.values::<1>(chunk, row, dim, &shrink),
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

    /// As [`Self::add_chunk`], from the cache itself.
    ///
    /// # Safety
    /// As for [`Self::run`]; `V` reads this cache.
    #[inline(always)]
    unsafe fn add_from_cache<T: KvElement>(&mut self, input: &TileInput<T>, chunk: &Chunk) {
        let (stride, len) = (input.op.shape.num_kv_heads * self.head_dim, Sums::len(self.dims));
        let head = self.kv_head * self.head_dim;
        for row in (0..self.rows).step_by(FEW_ROWS) {
            // SAFETY: the conditions are the caller's; rows are whole steps, and so are keys, each step in one block;
            // a head's values are within its slot.
            unsafe {
                for key in chunk.keys.clone().step_by(KEY_STEP) {
                    let at = chunk.slots[key] * stride + head;
                    let keys = &input.k[at..][..(KEY_STEP - 1) * stride + self.head_dim];
                    let q = self.q[row * self.head_dim..][..FEW_ROWS * self.head_dim].as_ptr();
                    V::logits(q, keys.as_ptr(), stride, self.head_dim, &mut self.probs, key);
                }
                let shrink = self.powers::<FEW_ROWS>(chunk, row);
                let sums = &mut self.span[row * len..][..FEW_ROWS * len];
                for dim in (0..self.head_dim).step_by(2 * V::LANES) {
                    let values = chunk.visible_keys().map(|key| {
                        let at = chunk.slots[key] * stride + head + dim;
                        (key, input.v[at..][..2 * V::LANES].as_ptr())
                    });
                    V::values(values, &self.probs, &shrink, sums[dim..].as_mut_ptr(), len);
                }
            }
        }
    }

    /// Turns the logits of `R` rows from `row` into powers, what a row does not see into 0, and returns what the rows'
    /// earlier values shrink by.
    ///
    /// # Safety
    /// As for [`Self::add_chunk`].
    #[inline(always)]
    unsafe fn powers<const R: usize>(&mut self, chunk: &Chunk, row: usize) -> [f32; R] {
        let len = Sums::len(self.dims);
        let probs = &mut self.probs[..R];
        // SAFETY: the conditions are the caller's; keys are whole vectors within the chunk.
        unsafe {
            if chunk.masked {
                softmax::mask::<V>(probs, &chunk.first[row..], &chunk.last[row..], chunk.keys.clone());
            }
            softmax::powers::<V, R>(probs, &mut self.span[row * len..][..R * len], chunk.keys.clone())
        }
    }

    /// Sums `probs[key] * v[key]` ascending over the chunk for `N` vectors of dimensions and merges it into the state.
    #[inline(always)]
    unsafe fn values<const N: usize>(
        &mut self,
        chunk: &Chunk,
        row: usize,
        dim: usize,
        shrink: &[f32; ROW_STEP],
    ) {
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
                let shrink = V::splat(shrink[r]);
                for (n, acc) in acc.into_iter().enumerate() {
                    let out = self.span.as_mut_ptr().add((row + r) * Sums::len(dims) + dim + n * V::LANES);
                    V::load(out).mul_add(shrink, acc).store(out);
                }
            }
        }
    }

    /// Writes what attention gives to the places of this head.
    #[inline(always)]
    fn put<T>(&self, input: &TileInput<T>, out: &mut [f32]) {
        let rows = self.total.chunks_exact(Sums::len(self.dims));
        for (sums, at) in rows.zip(self.places(input)) {
            Sums::divide(sums, &mut out[at * self.head_dim..][..self.head_dim]);
        }
    }

    /// Writes the sums of the span to the places of this head.
    #[inline(always)]
    fn put_sums<T>(&self, input: &TileInput<T>, out: &mut [f32]) {
        let len = Sums::len(self.dims);
        for (sums, at) in self.span.chunks_exact(len).zip(self.places(input)) {
            out[at * len..][..len].copy_from_slice(sums);
        }
    }

    /// Where each row belongs in `[num_queries, kv_heads * group_size]`.
    #[inline(always)]
    fn places<T>(&self, input: &TileInput<T>) -> impl Iterator<Item = usize> {
        let group_size = input.op.shape.group_size();
        let (num_heads, first) = (input.kv_heads.len() * group_size, self.kv_head - input.kv_heads.start);
        (0..input.num_queries * group_size)
            .map(move |row| row / group_size * num_heads + first * group_size + row % group_size)
    }
}
