//! Rows that meet keys and values in vectors of f32.
//!
//! Lanes are keys where queries meet keys and dimensions where values are summed, so that one row fills
//! vectors as well as many: both sums run down a lane in ascending order.

use std::f32::consts::LOG2_E;

use super::CHUNK_LEN;
use super::chunk::{Chunk, FetchedF32, KEY_STEP, prefetch_next};
use super::cpu::KvElement;
use super::softmax;
use super::sums::{Sums, padded};
use super::tile::{Rows, TileInput};
use super::vector::{FEW_ROWS, Vector};

/// The heads of a task, and room for what is fetched of a chunk, which they share.
pub(super) struct VectorRows<V> {
    heads: Vec<Head<V>>,
    fetched: FetchedF32,
}

/// Running state and scratch of one key-value head; `rows` are padded to whole steps.
struct Head<V> {
    kv_head: usize,
    rows: usize,
    reads_cache: bool,
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
/// Most rows that read keys and values as they lie in the cache, where the processor can: fewer than make up for fetching
/// them first.
const MAX_FEW_ROWS: usize = 2 * FEW_ROWS;

impl<T: KvElement, V: Vector> Rows<T> for VectorRows<V> {
    #[inline(always)]
    fn padded_rows(input: &TileInput<T>) -> usize {
        Head::<V>::rows(input).0
    }

    #[inline(always)]
    unsafe fn new(input: &TileInput<T>) -> Self {
        let heads = input.kv_heads.clone().map(|kv_head| Head::new(input, kv_head)).collect();
        Self { heads, fetched: FetchedF32::new(padded(input.op.shape.head_dim)) }
    }

    #[inline(always)]
    unsafe fn add_chunk(&mut self, input: &TileInput<T>, chunk: &Chunk) {
        for head in &mut self.heads {
            prefetch_next(input, chunk, head.kv_head);
            // SAFETY: the condition is the caller's; what is fetched has the width of the rows.
            unsafe {
                if head.reads_cache {
                    head.add_from_cache(input, chunk);
                } else {
                    self.fetched.fetch::<V, T>(input, chunk, head.kv_head);
                    head.add_fetched(chunk, &self.fetched);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn end_span(&mut self) {
        for head in &mut self.heads {
            let len = Sums::len(head.dims);
            for (total, span) in head.total.chunks_exact_mut(len).zip(head.span.chunks_exact_mut(len)) {
                // SAFETY: the condition is the caller's.
                unsafe { Sums::merge::<V>(total, span) };
                Sums::of_nothing(span);
            }
        }
    }

    #[inline(always)]
    unsafe fn span(&mut self, head: usize) -> &[f32] {
        &self.heads[head].span
    }

    #[inline(always)]
    unsafe fn total(&mut self, head: usize) -> &[f32] {
        &self.heads[head].total
    }
}

impl<V: Vector> Head<V> {
    /// The state before any key.
    #[inline(always)]
    fn new<T: KvElement>(input: &TileInput<T>, kv_head: usize) -> Self {
        let head_dim = input.op.shape.head_dim;
        let (rows, reads_cache) = Self::rows(input);
        let dims = padded(head_dim);
        let mut state = Self {
            kv_head,
            rows,
            reads_cache,
            head_dim,
            dims,
            q: vec![0.0; rows * head_dim],
            span: vec![0.0; rows * Sums::len(dims)],
            total: vec![0.0; rows * Sums::len(dims)],
            probs: [[0.0; CHUNK_LEN]; FEW_ROWS],
            vector: std::marker::PhantomData,
        };
        let scale = input.op.layer.scale * LOG2_E;
        state.span.chunks_exact_mut(Sums::len(dims)).for_each(Sums::of_nothing);
        for row in 0..input.num_rows() {
            let (head, at) = input.head_and_query(kv_head, row);
            let total = &mut state.total[row * Sums::len(dims)..][..Sums::len(dims)];
            Sums::of_sink(total, input.op.layer.sinks[head]);
            for (dim, x) in input.q[at..at + head_dim].iter().enumerate() {
                let to = match reads_cache {
                    true => (row / FEW_ROWS * head_dim + dim) * FEW_ROWS + row % FEW_ROWS,
                    false => row * head_dim + dim,
                };
                state.q[to] = x * scale;
            }
        }
        state
    }

    /// The rows of a head, in whole steps, and whether they read the cache as it lies.
    #[inline(always)]
    fn rows<T: KvElement>(input: &TileInput<T>) -> (usize, bool) {
        let rows = input.num_rows();
        match rows <= MAX_FEW_ROWS && V::reads_cache::<T>(input.op.shape) {
            true => (rows.next_multiple_of(FEW_ROWS), true),
            false => (rows.next_multiple_of(ROW_STEP), false),
        }
    }

    /// Merges a fetched chunk into the state.
    ///
    /// # Safety
    /// The processor has the instructions of `V`; the chunk is for these rows and dimensions.
    #[inline(always)]
    unsafe fn add_fetched(&mut self, chunk: &Chunk, fetched: &FetchedF32) {
        let keys = chunk.keys.clone();
        for row in (0..self.rows).step_by(ROW_STEP) {
            // SAFETY: the conditions are the caller's; rows are whole steps.
            unsafe {
                let mut key = keys.start;
                while key < keys.end {
                    let vectors = ((keys.end - key) / V::LANES).min(V::MAX_VECTORS);
                    match vectors {
                        4.. => self.logits::<4>(fetched, row, key),
                        2 | 3 => self.logits::<2>(fetched, row, key),
                        _ => self.logits::<1>(fetched, row, key),
                    }
                    key += V::LANES * if vectors == 3 { 2 } else { vectors };
                }
                let shrink = self.powers::<ROW_STEP>(chunk, row);
                let mut dim = 0;
                while dim < self.dims {
                    let vectors = ((self.dims - dim) / V::LANES).min(V::MAX_VECTORS);
                    match vectors {
                        4.. => self.values::<4>(chunk, fetched, row, dim, &shrink),
                        2 | 3 => self.values::<2>(chunk, fetched, row, dim, &shrink),
                        _ => self.values::<1>(chunk, fetched, row, dim, &shrink),
                    }
                    dim += V::LANES * if vectors == 3 { 2 } else { vectors };
                }
            }
        }
    }

    /// `probs[key] = sum over dim of k[key, dim] * q[dim]`, ascending, for `N` vectors of keys.
    #[inline(always)]
    unsafe fn logits<const N: usize>(&mut self, fetched: &FetchedF32, row: usize, key: usize) {
        // SAFETY: key + N * LANES <= CHUNK_LEN and row + ROW_STEP <= rows; see the buffers' sizes.
        unsafe {
            let q = self.q.as_ptr().add(row * self.head_dim);
            let k = fetched.k.as_ptr().add(key);
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

    /// As [`Self::add_fetched`], from the cache itself.
    ///
    /// # Safety
    /// As for [`Self::add_fetched`]; `V` reads this cache.
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
    /// As for [`Self::add_fetched`].
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
        fetched: &FetchedF32,
        row: usize,
        dim: usize,
        shrink: &[f32; ROW_STEP],
    ) {
        let dims = self.dims;
        // SAFETY: dim + N * LANES <= dims, row + ROW_STEP <= rows, keys < CHUNK_LEN; see the buffers' sizes.
        unsafe {
            let mut acc = [[V::splat(0.0); N]; ROW_STEP];
            for key in chunk.keys.clone() {
                let v = fetched.v.as_ptr().add(key * dims + dim);
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
}
