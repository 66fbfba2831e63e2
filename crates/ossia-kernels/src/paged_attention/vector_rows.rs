//! Rows that meet keys and values in vectors.
//!
//! Lanes are keys where queries meet keys and dimensions where values are summed, so that one row fills
//! vectors as well as many: both sums run down a lane in ascending order.

use std::f32::consts::LOG2_E;

use float8::F8E4M3;

use super::CHUNK_LEN;
use super::chunk::{Chunk, Fetched, KEY_STEP, prefetch_next};
use super::cpu::KvElement;
use super::operands::{FEW_ROWS, Operands};
use super::softmax;
use super::sums::{Sums, padded};
use super::tile::{Rows, TileInput};
use super::vector::Vector;

/// The heads of a task, and room for what is fetched of a chunk, which they share.
pub(super) struct VectorRows<P> {
    heads: Vec<Head<P>>,
    fetched: Fetched,
}

/// Running state and scratch of one key-value head; `rows` are padded to whole steps.
struct Head<P> {
    kv_head: usize,
    rows: usize,
    reads_cache: bool,
    head_dim: usize,
    dims: usize,
    /// Lanes of a query.
    lanes: usize,
    /// Queries, scaled for powers of two, `[rows, lanes]`; of few rows that read the cache `[_, lanes, FEW_ROWS]`.
    q: Vec<f32>,
    /// What the span's keys so far gave, [`Sums`] of each row.
    span: Vec<f32>,
    /// What the sink and the spans before gave, likewise.
    total: Vec<f32>,
    /// Logits of one step of rows, then their powers, then these packed.
    probs: [[f32; CHUNK_LEN]; FEW_ROWS],
    operands: std::marker::PhantomData<P>,
}

/// Rows are taken in steps of this many.
const ROW_STEP: usize = 4;
/// Most rows that read keys and values as they lie in the cache, where the processor can: fewer than make up for fetching
/// them first.
const MAX_FEW_ROWS: usize = 2 * FEW_ROWS;

impl<T: KvElement, P: Operands> Rows<T> for VectorRows<P> {
    #[inline(always)]
    fn padded_rows(input: &TileInput<T>) -> usize {
        Head::<P>::rows(input).0
    }

    #[inline(always)]
    unsafe fn widen_e4m3(from: &[F8E4M3], to: &mut [T]) {
        // SAFETY: the condition is the caller's.
        unsafe { P::widen_e4m3(from, to) }
    }

    #[inline(always)]
    unsafe fn new(input: &TileInput<T>) -> Self {
        // SAFETY: the condition is the caller's.
        let heads = input.kv_heads.clone().map(|kv_head| unsafe { Head::new(input, kv_head) }).collect();
        Self { heads, fetched: Fetched::new(padded(input.op.shape.head_dim)) }
    }

    #[inline(always)]
    unsafe fn add_chunk(&mut self, input: &TileInput<T>, chunk: &Chunk) {
        for head in &mut self.heads {
            // SAFETY: the condition is the caller's; what is fetched has the width of the rows.
            unsafe {
                if head.reads_cache {
                    head.add_from_cache(input, chunk);
                } else {
                    prefetch_next(&input.cache, head.head_dim, chunk, head.kv_head, 0..CHUNK_LEN);
                    self.fetched.fetch::<P, T>(input, chunk, head.kv_head);
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
                unsafe { Sums::merge::<P::Vector>(total, span) };
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

impl<P: Operands> Head<P> {
    /// The state before any key.
    ///
    /// # Safety
    /// The processor has the instructions of `P`.
    #[inline(always)]
    unsafe fn new<T: KvElement>(input: &TileInput<T>, kv_head: usize) -> Self {
        let head_dim = input.op.shape.head_dim;
        let (rows, reads_cache) = Self::rows(input);
        let (dims, lanes) = (padded(head_dim), head_dim.div_ceil(P::DEPTH));
        let mut state = Self {
            kv_head,
            rows,
            reads_cache,
            head_dim,
            dims,
            lanes,
            q: vec![0.0; rows * lanes],
            span: vec![0.0; rows * Sums::len(dims)],
            total: vec![0.0; rows * Sums::len(dims)],
            probs: [[0.0; CHUNK_LEN]; FEW_ROWS],
            operands: std::marker::PhantomData,
        };
        let scale = input.op.layer.scale * LOG2_E;
        state.span.chunks_exact_mut(Sums::len(dims)).for_each(Sums::of_nothing);
        let mut q = vec![0.0; head_dim];
        for row in 0..input.num_rows() {
            let (head, at) = input.head_and_query(kv_head, row);
            let total = &mut state.total[row * Sums::len(dims)..][..Sums::len(dims)];
            Sums::of_sink(total, input.op.layer.sinks[head]);
            q.iter_mut().zip(&input.q[at..]).for_each(|(q, x)| *q = x * scale);
            // SAFETY: the condition is the caller's.
            unsafe { P::pack(&mut q) };
            for (lane, q) in q[..lanes].iter().enumerate() {
                let to = match reads_cache {
                    true => (row / FEW_ROWS * lanes + lane) * FEW_ROWS + row % FEW_ROWS,
                    false => row * lanes + lane,
                };
                state.q[to] = *q;
            }
        }
        state
    }

    /// The rows of a head, in whole steps, and whether they read the cache as it lies.
    #[inline(always)]
    fn rows<T: KvElement>(input: &TileInput<T>) -> (usize, bool) {
        let rows = input.num_rows();
        match rows <= MAX_FEW_ROWS && P::reads_cache::<T>(input.op.shape) {
            true => (rows.next_multiple_of(FEW_ROWS), true),
            false => (rows.next_multiple_of(ROW_STEP), false),
        }
    }

    /// Merges a fetched chunk into the state.
    ///
    /// # Safety
    /// The processor has the instructions of `P`; the chunk is for these rows and dimensions.
    #[inline(always)]
    unsafe fn add_fetched(&mut self, chunk: &Chunk, fetched: &Fetched) {
        let keys = chunk.keys.clone();
        for row in (0..self.rows).step_by(ROW_STEP) {
            // SAFETY: the conditions are the caller's; rows are whole steps.
            unsafe {
                let mut key = keys.start;
                while key < keys.end {
                    let vectors = ((keys.end - key) / P::Vector::LANES).min(P::Vector::MAX_VECTORS);
                    match vectors {
                        4.. => self.logits::<4>(fetched, row, key),
                        2 | 3 => self.logits::<2>(fetched, row, key),
                        _ => self.logits::<1>(fetched, row, key),
                    }
                    key += P::Vector::LANES * if vectors == 3 { 2 } else { vectors };
                }
                let shrink = self.powers::<ROW_STEP>(chunk, row);
                let mut dim = 0;
                while dim < self.dims {
                    let vectors = ((self.dims - dim) / P::Vector::LANES).min(P::Vector::MAX_VECTORS);
                    match vectors {
                        4.. => self.values::<4>(chunk, fetched, row, dim, &shrink),
                        2 | 3 => self.values::<2>(chunk, fetched, row, dim, &shrink),
                        _ => self.values::<1>(chunk, fetched, row, dim, &shrink),
                    }
                    dim += P::Vector::LANES * if vectors == 3 { 2 } else { vectors };
                }
            }
        }
    }

    /// `probs[key] = sum over dim of k[key, dim] * q[dim]`, ascending, for `N` vectors of keys.
    #[inline(always)]
    unsafe fn logits<const N: usize>(&mut self, fetched: &Fetched, row: usize, key: usize) {
        // SAFETY: key + N * LANES <= CHUNK_LEN and row + ROW_STEP <= rows; see the buffers' sizes.
        unsafe {
            let q = self.q.as_ptr().add(row * self.lanes);
            let k = fetched.k.as_ptr().add(key);
            let mut acc = [[P::Vector::splat(0.0); N]; ROW_STEP];
            for lane in 0..self.lanes {
                let mut keys = [P::Vector::splat(0.0); N];
                for (n, keys) in keys.iter_mut().enumerate() {
                    *keys = P::Vector::load(k.add(lane * CHUNK_LEN + n * P::Vector::LANES));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let q = P::Vector::splat(*q.add(r * self.lanes + lane));
                    for (acc, keys) in acc.iter_mut().zip(keys) {
                        *acc = P::multiply_add(keys, q, *acc);
                    }
                }
            }
            for (probs, acc) in self.probs.iter_mut().zip(acc) {
                for (n, acc) in acc.into_iter().enumerate() {
                    acc.store(probs.as_mut_ptr().add(key + n * P::Vector::LANES));
                }
            }
        }
    }

    /// As [`Self::add_fetched`], from the cache itself.
    ///
    /// # Safety
    /// As for [`Self::add_fetched`]; `P` reads this cache.
    #[inline(always)]
    unsafe fn add_from_cache<T: KvElement>(&mut self, input: &TileInput<T>, chunk: &Chunk) {
        let (cache, len) = (input.cache, Sums::len(self.dims));
        for row in (0..self.rows).step_by(FEW_ROWS) {
            // SAFETY: the conditions are the caller's; rows are whole steps, and so are keys, each step in one block;
            // a head's values are within its slot.
            unsafe {
                for key in chunk.keys.clone().step_by(KEY_STEP) {
                    // Step by step: a whole chunk at once would wait for memory instead of computing beside it.
                    if row == 0 {
                        prefetch_next(&cache, self.head_dim, chunk, self.kv_head, key..key + KEY_STEP);
                    }
                    let keys = cache.step_of_keys(chunk.slots[key], self.kv_head, self.head_dim);
                    let q = self.q[row * self.lanes..][..FEW_ROWS * self.lanes].as_ptr();
                    P::logits(q, keys.as_ptr(), cache.slot_stride, self.head_dim, &mut self.probs, key);
                }
                let shrink = self.powers::<FEW_ROWS>(chunk, row);
                let sums = &mut self.span[row * len..][..FEW_ROWS * len];
                P::add_values(&chunk.values(input, self.kv_head), &self.probs, &shrink, sums, len);
            }
        }
    }

    /// Turns the logits of `R` rows from `row` into packed powers, what a row does not see into 0, and returns what the rows'
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
                softmax::mask::<P::Vector>(
                    probs,
                    &chunk.first[row..],
                    &chunk.last[row..],
                    chunk.keys.clone(),
                );
            }
            let sums = &mut self.span[row * len..][..R * len];
            let shrink = softmax::powers::<P::Vector, R>(probs, sums, chunk.keys.clone());
            for probs in probs {
                P::pack(&mut probs[..chunk.keys.end]);
            }
            shrink
        }
    }

    /// Sums `probs[key] * v[key]` ascending over the chunk for `N` vectors of dimensions and merges it into the state.
    #[inline(always)]
    unsafe fn values<const N: usize>(
        &mut self,
        chunk: &Chunk,
        fetched: &Fetched,
        row: usize,
        dim: usize,
        shrink: &[f32; ROW_STEP],
    ) {
        let dims = self.dims;
        // SAFETY: dim + N * LANES <= dims, row + ROW_STEP <= rows, keys < CHUNK_LEN; see the buffers' sizes.
        unsafe {
            let mut acc = [[P::Vector::splat(0.0); N]; ROW_STEP];
            for lane in chunk.keys.start / P::DEPTH..chunk.keys.end / P::DEPTH {
                let v = fetched.v.as_ptr().add(lane * dims + dim);
                let mut values = [P::Vector::splat(0.0); N];
                for (n, values) in values.iter_mut().enumerate() {
                    *values = P::Vector::load(v.add(n * P::Vector::LANES));
                }
                for (r, acc) in acc.iter_mut().enumerate() {
                    let prob = P::Vector::splat(*self.probs.as_ptr().cast::<f32>().add(r * CHUNK_LEN + lane));
                    for (acc, values) in acc.iter_mut().zip(values) {
                        *acc = P::multiply_add(values, prob, *acc);
                    }
                }
            }
            for (r, acc) in acc.into_iter().enumerate() {
                let shrink = P::Vector::splat(shrink[r]);
                for (n, acc) in acc.into_iter().enumerate() {
                    let out =
                        self.span.as_mut_ptr().add((row + r) * Sums::len(dims) + dim + n * P::Vector::LANES);
                    P::Vector::load(out).mul_add(shrink, acc).store(out);
                }
            }
        }
    }
}
