//! One tile: some queries of one sequence against one key-value head, chunk of keys by chunk of keys.
//!
//! Rows (query, head of the group) lie in the lanes of vectors, so all heads of a group share each key and
//! value that is fetched, and every reduction runs down a lane in ascending order.

use super::cpu::KvElement;
use super::vector::{Vector, exp_nonpositive};
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
    pub(super) kv_head: usize,
    /// Row of `q` of the first query, and its absolute position.
    pub(super) first_query: usize,
    pub(super) first_position: usize,
    pub(super) num_queries: usize,
}

/// Running state and scratch of a tile. `rows` is padded to whole vectors; buffers are `[.., rows]`.
pub(super) struct Tile<V> {
    rows: usize,
    head_dim: usize,
    /// Scaled queries, `[head_dim, rows]`.
    q: Vec<f32>,
    /// Weighted values so far, `[head_dim, rows]`.
    out: Vec<f32>,
    /// Largest logit so far and sum of exponentials relative to it, `[rows]`.
    max: Vec<f32>,
    sum: Vec<f32>,
    /// Factors of the state and of the chunk when they merge, `[rows]`.
    state_factor: Vec<f32>,
    chunk_factor: Vec<f32>,
    /// First and last visible position of each row, relative to the chunk, `[rows]`.
    first: Vec<f32>,
    last: Vec<f32>,
    /// Logits, then their exponentials, `[CHUNK_LEN, rows]`.
    probs: Vec<f32>,
    /// Keys and values of the chunk, `[CHUNK_LEN, head_dim]`.
    k: Vec<f32>,
    v: Vec<f32>,
    vector: std::marker::PhantomData<V>,
}

/// Keys are taken in steps of this many; divides [`CHUNK_LEN`].
const KEY_STEP: usize = 8;

impl<V: Vector> Tile<V> {
    /// Computes `[num_queries, group_size, head_dim]` into `out`.
    ///
    /// # Safety
    /// The processor has the instructions of `V`.
    #[inline(always)]
    pub(super) unsafe fn run<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
        let mut tile = Self::new(input);
        let first = input.op.first_visible(input.first_position);
        let end = input.first_position + input.num_queries;
        for chunk_start in (first / CHUNK_LEN * CHUNK_LEN..end).step_by(CHUNK_LEN) {
            let visible = first.max(chunk_start)..end.min(chunk_start + CHUNK_LEN);
            fetch(input, input.k, visible.clone(), chunk_start, &mut tile.k);
            fetch(input, input.v, visible.clone(), chunk_start, &mut tile.v);
            let keys = (visible.start - chunk_start) / KEY_STEP * KEY_STEP
                ..(visible.end - chunk_start).next_multiple_of(KEY_STEP);
            let masked = tile.set_visible(input, chunk_start);
            // SAFETY: the instructions by the condition above; `keys` lies within CHUNK_LEN.
            unsafe { tile.add_chunk(keys, masked) };
        }
        tile.finish(input, out);
    }

    /// The state before any key: the sink, which has weight but no value.
    #[inline(always)]
    fn new<T>(input: &TileInput<T>) -> Self {
        let shape = input.op.shape;
        let (group_size, head_dim) = (shape.group_size(), shape.head_dim);
        let rows = (input.num_queries * group_size).next_multiple_of(V::LANES);
        let mut tile = Self {
            rows,
            head_dim,
            q: vec![0.0; head_dim * rows],
            out: vec![0.0; head_dim * rows],
            max: vec![0.0; rows],
            sum: vec![1.0; rows],
            state_factor: vec![0.0; rows],
            chunk_factor: vec![0.0; rows],
            first: vec![0.0; rows],
            last: vec![0.0; rows],
            probs: vec![0.0; CHUNK_LEN * rows],
            k: vec![0.0; CHUNK_LEN * head_dim],
            v: vec![0.0; CHUNK_LEN * head_dim],
            vector: std::marker::PhantomData,
        };
        for query in 0..input.num_queries {
            for head in 0..group_size {
                let row = query * group_size + head;
                let head_idx = input.kv_head * group_size + head;
                tile.max[row] = input.op.layer.sinks[head_idx];
                let at = ((input.first_query + query) * shape.num_heads + head_idx) * head_dim;
                for (dim, &x) in input.q[at..at + head_dim].iter().enumerate() {
                    tile.q[dim * rows + row] = x * input.op.layer.scale;
                }
            }
        }
        tile
    }

    /// Sets `first` and `last` for a chunk; false if every row sees all of it.
    #[inline(always)]
    fn set_visible<T>(&mut self, input: &TileInput<T>, chunk_start: usize) -> bool {
        let last_position = input.first_position + input.num_queries - 1;
        let chunk_end = chunk_start + CHUNK_LEN;
        if input.op.first_visible(last_position) <= chunk_start && chunk_end <= input.first_position + 1 {
            return false;
        }
        let group_size = input.op.shape.group_size();
        for query in 0..input.num_queries {
            let position = input.first_position + query;
            let first = input.op.first_visible(position);
            let rows = query * group_size..(query + 1) * group_size;
            // Distances of at most the context: exact in f32 up to 2^24, and only their order matters.
            self.first[rows.clone()].fill(first as f32 - chunk_start as f32);
            self.last[rows].fill(position as f32 - chunk_start as f32);
        }
        true
    }

    /// Merges the fetched `keys` of a chunk into the state.
    ///
    /// # Safety
    /// As for [`Self::run`]; `keys` in steps of [`KEY_STEP`] within [`CHUNK_LEN`].
    #[inline(always)]
    unsafe fn add_chunk(&mut self, keys: std::ops::Range<usize>, masked: bool) {
        let mut row = 0;
        while row < self.rows {
            let vectors = ((self.rows - row) / V::LANES).min(V::MAX_VECTORS);
            // SAFETY: `row + vectors * LANES <= rows`, as rows are whole vectors.
            unsafe {
                match vectors {
                    4.. => self.add_rows::<4, 4>(row, keys.clone(), masked),
                    2 | 3 => self.add_rows::<2, 4>(row, keys.clone(), masked),
                    _ => self.add_rows::<1, 8>(row, keys.clone(), masked),
                }
            }
            row += V::LANES * if vectors == 3 { 2 } else { vectors };
        }
    }

    /// [`Self::add_chunk`] for `N` vectors of rows from `row`, with `R` keys or dimensions at a time.
    #[inline(always)]
    unsafe fn add_rows<const N: usize, const R: usize>(
        &mut self,
        row: usize,
        keys: std::ops::Range<usize>,
        masked: bool,
    ) {
        // SAFETY: the conditions are the caller's.
        unsafe {
            self.logits::<N, R>(row, keys.clone());
            for vector in 0..N {
                let row = row + vector * V::LANES;
                if masked {
                    self.mask(row, keys.clone());
                }
                self.softmax(row, keys.clone());
            }
            let whole = self.head_dim / R * R;
            for dim in (0..whole).step_by(R) {
                self.values::<N, R>(row, dim, keys.clone());
            }
            for dim in whole..self.head_dim {
                self.values::<N, 1>(row, dim, keys.clone());
            }
        }
    }

    /// `probs[key] = sum over dim of k[key, dim] * q[dim]`, ascending.
    #[inline(always)]
    unsafe fn logits<const N: usize, const R: usize>(&mut self, row: usize, keys: std::ops::Range<usize>) {
        let (rows, head_dim) = (self.rows, self.head_dim);
        for key in keys.step_by(R) {
            // SAFETY: key + R <= CHUNK_LEN as R divides KEY_STEP, row + N * LANES <= rows; see the buffers' sizes.
            unsafe {
                let mut acc = [[V::splat(0.0); N]; R];
                let k = self.k.as_ptr().add(key * head_dim);
                for dim in 0..head_dim {
                    let q = self.q.as_ptr().add(dim * rows + row);
                    let q: [V; N] = std::array::from_fn(|n| V::load(q.add(n * V::LANES)));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let k = V::splat(*k.add(r * head_dim + dim));
                        for (acc, &q) in acc.iter_mut().zip(&q) {
                            *acc = k.mul_add(q, *acc);
                        }
                    }
                }
                let to = self.probs.as_mut_ptr().add(key * rows + row);
                for (r, acc) in acc.iter().enumerate() {
                    for (n, acc) in acc.iter().enumerate() {
                        acc.store(to.add(r * rows + n * V::LANES));
                    }
                }
            }
        }
    }

    /// Minus infinity where a row does not see a key.
    #[inline(always)]
    unsafe fn mask(&mut self, row: usize, keys: std::ops::Range<usize>) {
        // SAFETY: row + LANES <= rows and keys < CHUNK_LEN; see the buffers' sizes.
        unsafe {
            let first = V::load(self.first.as_ptr().add(row));
            let last = V::load(self.last.as_ptr().add(row));
            let hidden = V::splat(f32::NEG_INFINITY);
            for key in keys {
                let at = self.probs.as_mut_ptr().add(key * self.rows + row);
                let position = V::splat(key as f32);
                let logit = V::load(at).where_ge(position, first, hidden);
                logit.where_ge(last, position, hidden).store(at);
            }
        }
    }

    /// Turns logits into exponentials relative to the chunk's largest, and merges maximum and sum into the
    /// state. A row that sees nothing of the chunk leaves its state as it is: its factors are 1 and 0.
    #[inline(always)]
    unsafe fn softmax(&mut self, row: usize, keys: std::ops::Range<usize>) {
        // SAFETY: row + LANES <= rows and keys < CHUNK_LEN; see the buffers' sizes.
        unsafe {
            let probs = self.probs.as_mut_ptr().add(row);
            let mut chunk_max = V::splat(f32::MIN / 2.0);
            for key in keys.clone() {
                chunk_max = chunk_max.max(V::load(probs.add(key * self.rows)));
            }
            let mut chunk_sum = V::splat(0.0);
            for key in keys {
                let at = probs.add(key * self.rows);
                let prob = exp_nonpositive(V::load(at).sub(chunk_max));
                prob.store(at);
                chunk_sum = chunk_sum.add(prob);
            }
            let (max, sum) = (self.max.as_mut_ptr().add(row), self.sum.as_mut_ptr().add(row));
            let new_max = V::load(max).max(chunk_max);
            let state_factor = exp_nonpositive(V::load(max).sub(new_max));
            let chunk_factor = exp_nonpositive(chunk_max.sub(new_max));
            V::load(sum).mul(state_factor).add(chunk_sum.mul(chunk_factor)).store(sum);
            new_max.store(max);
            state_factor.store(self.state_factor.as_mut_ptr().add(row));
            chunk_factor.store(self.chunk_factor.as_mut_ptr().add(row));
        }
    }

    /// Sums `probs[key] * v[key, dim..dim + R]` ascending over the chunk and merges it into the state.
    #[inline(always)]
    unsafe fn values<const N: usize, const R: usize>(
        &mut self,
        row: usize,
        dim: usize,
        keys: std::ops::Range<usize>,
    ) {
        let (rows, head_dim) = (self.rows, self.head_dim);
        // SAFETY: dim + R <= head_dim, row + N * LANES <= rows, keys < CHUNK_LEN; see the buffers' sizes.
        unsafe {
            let mut acc = [[V::splat(0.0); N]; R];
            for key in keys {
                let probs = self.probs.as_ptr().add(key * rows + row);
                let probs: [V; N] = std::array::from_fn(|n| V::load(probs.add(n * V::LANES)));
                let v = self.v.as_ptr().add(key * head_dim + dim);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let v = V::splat(*v.add(r));
                    for (acc, &prob) in acc.iter_mut().zip(&probs) {
                        *acc = v.mul_add(prob, *acc);
                    }
                }
            }
            for n in 0..N {
                let row = row + n * V::LANES;
                let state_factor = V::load(self.state_factor.as_ptr().add(row));
                let chunk_factor = V::load(self.chunk_factor.as_ptr().add(row));
                for (r, acc) in acc.iter().enumerate() {
                    let out = self.out.as_mut_ptr().add((dim + r) * rows + row);
                    acc[n].mul(chunk_factor).add(V::load(out).mul(state_factor)).store(out);
                }
            }
        }
    }

    /// Divides by the sums, sink included, and turns rows back into heads.
    #[inline(always)]
    fn finish<T>(&self, input: &TileInput<T>, out: &mut [f32]) {
        let num_rows = input.num_queries * input.op.shape.group_size();
        for (row, out) in out.chunks_mut(self.head_dim).take(num_rows).enumerate() {
            for (dim, out) in out.iter_mut().enumerate() {
                *out = self.out[dim * self.rows + row] / self.sum[row];
            }
        }
    }
}

/// Copies positions `visible` of one key-value head from the cache's blocks to their places in the chunk.
#[inline(always)]
fn fetch<T: KvElement>(
    input: &TileInput<T>,
    cache: &[T],
    visible: std::ops::Range<usize>,
    chunk_start: usize,
    to: &mut [f32],
) {
    let shape = input.op.shape;
    let head_dim = shape.head_dim;
    for position in visible {
        let block_idx = position / shape.block_size - input.table.first_block_idx as usize;
        let slot = input.table.blocks[block_idx] as usize * shape.block_size + position % shape.block_size;
        let at = (slot * shape.num_kv_heads + input.kv_head) * head_dim;
        let to = &mut to[(position - chunk_start) * head_dim..][..head_dim];
        for (to, &from) in to.iter_mut().zip(&cache[at..at + head_dim]) {
            *to = from.to_f32();
        }
    }
}
