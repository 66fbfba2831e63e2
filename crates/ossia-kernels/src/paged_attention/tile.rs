//! One task: some queries of one sequence against some key-value heads, span of keys by span and chunk by chunk.
//!
//! Rows are pairs of a query and a head of the group, so all heads of a group share each key and value that is
//! fetched. How rows meet a chunk is for [`Rows`] to say.

use std::ops::Range;

use float8::F8E4M3;

use super::chunk::Chunk;
use super::cpu::KvElement;
use super::staged::{Caches, HeadsOfSlots, Staged};
use super::sums::{Sums, padded};
use super::{CHUNK_LEN, PagedAttention, SPAN_LEN};
use crate::kv_cache::BlockTable;

/// What a tile is computed from. The op has checked that the table covers what the queries see.
#[derive(Clone)]
pub(super) struct TileInput<'a, T> {
    pub(super) op: PagedAttention<'a>,
    /// All queries, `[n, heads, head_dim]`.
    pub(super) q: &'a [f32],
    /// All keys and values as they are kept.
    pub(super) caches: Caches<'a, T>,
    /// The same where they are taken from: the caches, or what a chunk of them is widened to.
    pub(super) cache: HeadsOfSlots<'a, T>,
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

impl<T> TileInput<'_, T> {
    /// Rows of a key-value head.
    #[inline(always)]
    pub(super) fn num_rows(&self) -> usize {
        self.num_queries * self.op.shape.group_size()
    }

    /// The query head of row `row` of key-value head `kv_head`, and where its query begins in `q`.
    #[inline(always)]
    pub(super) fn head_and_query(&self, kv_head: usize, row: usize) -> (usize, usize) {
        let shape = self.op.shape;
        let head = kv_head * shape.group_size() + row % shape.group_size();
        let query = self.first_query + row / shape.group_size();
        (head, (query * shape.num_heads + head) * shape.head_dim)
    }

    /// Where row `row` of the `head`-th key-value head belongs in `[num_queries, kv_heads * group_size]`.
    #[inline(always)]
    fn place(&self, head: usize, row: usize) -> usize {
        let group_size = self.op.shape.group_size();
        (row / group_size * self.kv_heads.len() + head) * group_size + row % group_size
    }
}

/// The rows of a task's key-value heads and what they have summed so far.
///
/// The unsafe methods need a processor with the instructions of the implementing type.
pub(super) trait Rows<T>: Sized {
    /// Rows of a head with those that fill the last step up.
    fn padded_rows(input: &TileInput<T>) -> usize;
    /// Exact widening of as many numbers of a cache.
    unsafe fn widen_e4m3(from: &[F8E4M3], to: &mut [T]);
    /// The rows before any key.
    unsafe fn new(input: &TileInput<T>) -> Self;
    /// Merges a chunk of each head's keys and values into its rows.
    unsafe fn add_chunk(&mut self, input: &TileInput<T>, chunk: &Chunk);
    /// Adds the span to the total and goes on to the next one.
    unsafe fn end_span(&mut self);
    /// The [`Sums`] of each row of the task's `head`-th head from the span's keys.
    unsafe fn span(&mut self, head: usize) -> &[f32];
    /// Likewise, from the sink and the spans that have ended.
    unsafe fn total(&mut self, head: usize) -> &[f32];
}

/// Computes `[num_queries, kv_heads * group_size, head_dim]` into `out`, or, if spans are named, the [`Sums`] of each,
/// `[spans, num_queries, kv_heads * group_size]`.
///
/// # Safety
/// The processor has the instructions of `R`.
#[inline(always)]
pub(super) unsafe fn run<T: KvElement, R: Rows<T>>(input: &TileInput<T>, out: &mut [f32]) {
    let head_dim = input.op.shape.head_dim;
    let (rows, len) = (input.num_rows(), Sums::len(padded(head_dim)));
    let first = input.op.first_visible(input.first_position);
    let end = input.first_position + input.num_queries;
    let spans = input.spans.clone().unwrap_or(first / SPAN_LEN..end.div_ceil(SPAN_LEN));
    let out_len = out.len() / if input.spans.is_some() { spans.len() } else { 1 };
    let mut chunk = Chunk::new(R::padded_rows(input));
    let mut staged = Staged::new(input);
    // SAFETY: the condition is the caller's.
    unsafe {
        let mut state = R::new(input);
        for (idx, span) in spans.enumerate() {
            let first = first.max(span * SPAN_LEN) / CHUNK_LEN * CHUNK_LEN;
            for start in (first..end.min((span + 1) * SPAN_LEN)).step_by(CHUNK_LEN) {
                chunk.begin(input, start);
                match &mut staged {
                    Some(staged) => state.add_chunk(&staged.widen::<R>(input, &mut chunk), &chunk),
                    None => state.add_chunk(input, &chunk),
                }
            }
            if input.spans.is_some() {
                let out = &mut out[idx * out_len..][..out_len];
                for head in 0..input.kv_heads.len() {
                    for (row, sums) in state.span(head).chunks_exact(len).take(rows).enumerate() {
                        out[input.place(head, row) * len..][..len].copy_from_slice(sums);
                    }
                }
            }
            state.end_span();
        }
        if input.spans.is_some() {
            return;
        }
        for head in 0..input.kv_heads.len() {
            for (row, sums) in state.total(head).chunks_exact(len).take(rows).enumerate() {
                Sums::divide(sums, &mut out[input.place(head, row) * head_dim..][..head_dim]);
            }
        }
    }
}
