//! Cuts a batch into tasks (queries of one sequence and some key-value heads) and runs them on the pool.

use std::ops::Range;

use half::bf16;

use super::PagedAttention;
use super::tile::{Tile, TileInput};
use super::vector::{self, Portable};
use crate::cpu::{for_each_task, num_threads};

/// Rows (query, head of the group) of a tile: enough to pay for fetching its keys, few enough for L2.
const TILE_ROWS: usize = 256;
/// Tasks per thread worth having, so that a busy core costs its share only.
const TASKS_PER_THREAD: usize = 2;

/// Element type of a cache.
pub(super) trait KvElement: Copy + Sync {
    /// Exact widening.
    fn to_f32(self) -> f32;
}

impl KvElement for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
}

impl KvElement for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// Queries `first_query..first_query + num_queries` (rows of `q`) of one sequence, for some key-value heads.
struct Task {
    seq: usize,
    kv_heads: Range<usize>,
    first_query: usize,
    num_queries: usize,
}

/// Attention of all queries, `[n, heads * head_dim]`.
pub(super) fn attend<T: KvElement>(op: &PagedAttention, q: &[f32], k: &[T], v: &[T]) -> Vec<f32> {
    attend_with(op, q, k, v, best_tile::<T>(), num_threads())
}

/// Computes one task: `[num_queries, kv_heads * group_size, head_dim]` into the last argument.
pub(super) type TileFn<T> = fn(&TileInput<T>, &mut [f32]);

/// [`attend`] with a given tile function and number of threads; the result depends on neither.
pub(super) fn attend_with<T: KvElement>(
    op: &PagedAttention,
    q: &[f32],
    k: &[T],
    v: &[T],
    run_tile: TileFn<T>,
    threads: usize,
) -> Vec<f32> {
    let group_len = op.shape.group_size() * op.shape.head_dim;
    let token_len = op.shape.num_heads * op.shape.head_dim;
    let mut out = vec![0f32; q.len()];
    let shared = SharedOut(out.as_mut_ptr());
    let tasks = tasks(op, threads);
    // Later tiles see more keys: the longest first keeps the threads busy to the end.
    for_each_task(tasks.len(), threads, |idx| {
        let task = &tasks[tasks.len() - 1 - idx];
        let heads_len = task.kv_heads.len() * group_len;
        let mut tile_out = vec![0f32; task.num_queries * heads_len];
        run_tile(&tile_input(op, task, q, k, v), &mut tile_out);
        for (query, from) in tile_out.chunks(heads_len).enumerate() {
            let at = (task.first_query + query) * token_len + task.kv_heads.start * group_len;
            // SAFETY: `at + heads_len <= n * token_len = out.len()`, as queries and heads are in range, and
            // each (query, key-value head) belongs to one task, so no other thread writes here.
            unsafe { shared.write(at, from) };
        }
    });
    out
}

/// The output, written by all threads at places of their own.
struct SharedOut(*mut f32);

// SAFETY: `write` is the only access, and its callers keep to disjoint ranges.
unsafe impl Sync for SharedOut {}

impl SharedOut {
    /// # Safety
    /// `at..at + from.len()` lies in the allocation and nobody else touches it meanwhile.
    unsafe fn write(&self, at: usize, from: &[f32]) {
        // SAFETY: by the condition above; `from` is a borrow of other memory.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), self.0.add(at), from.len()) };
    }
}

fn tasks(op: &PagedAttention, threads: usize) -> Vec<Task> {
    let tile_queries = (TILE_ROWS / op.shape.group_size()).max(1);
    let num_kv_heads = op.shape.num_kv_heads;
    let bounds = op.metadata.cu_seqlens_q.windows(2).map(|bounds| bounds[0] as usize..bounds[1] as usize);
    let num_tiles: usize = bounds.clone().map(|queries| queries.len().div_ceil(tile_queries)).sum();
    // Neighbouring heads lie side by side in memory: with few queries, when fetching them is most of the work, a task
    // takes as many as leave enough tasks.
    let few_queries = op.metadata.cu_seqlens_q.last().is_none_or(|n| (*n as usize) < tile_queries);
    let heads_per_task = match few_queries {
        true => (num_tiles * num_kv_heads / (TASKS_PER_THREAD * threads)).clamp(1, num_kv_heads),
        false => 1,
    };
    let mut tasks = Vec::new();
    for (seq, queries) in bounds.enumerate() {
        for first_query in queries.clone().step_by(tile_queries) {
            let num_queries = tile_queries.min(queries.end - first_query);
            for first in (0..num_kv_heads).step_by(heads_per_task) {
                let kv_heads = first..num_kv_heads.min(first + heads_per_task);
                tasks.push(Task { seq, kv_heads, first_query, num_queries });
            }
        }
    }
    tasks
}

fn tile_input<'a, T>(
    op: &PagedAttention<'a>,
    task: &Task,
    q: &'a [f32],
    k: &'a [T],
    v: &'a [T],
) -> TileInput<'a, T> {
    let context_len = op.metadata.context_lens[task.seq] as usize;
    let end = op.metadata.cu_seqlens_q[task.seq + 1] as usize;
    TileInput {
        op: *op,
        q,
        k,
        v,
        table: &op.metadata.block_tables[task.seq],
        kv_heads: task.kv_heads.clone(),
        first_query: task.first_query,
        first_position: context_len - (end - task.first_query),
        num_queries: task.num_queries,
    }
}

/// The fastest tile function that this processor runs.
fn best_tile<T: KvElement>() -> TileFn<T> {
    available_tiles::<T>().pop().map_or(portable_tile::<T>, |(_, run_tile)| run_tile)
}

/// Every tile function that this processor runs, best last.
pub(super) fn available_tiles<T: KvElement>() -> Vec<(&'static str, TileFn<T>)> {
    let mut tiles: Vec<(&'static str, TileFn<T>)> = vec![("portable", portable_tile::<T>)];
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            tiles.push(("avx2", avx2_tile::<T>));
        }
        if is_x86_feature_detected!("avx512f") {
            tiles.push(("avx512", avx512_tile::<T>));
        }
    }
    tiles
}

fn portable_tile<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
    // SAFETY: plain Rust runs everywhere.
    unsafe { Tile::<Portable>::run(input, out) }
}

#[cfg(target_arch = "x86_64")]
fn avx2_tile<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
    #[target_feature(enable = "avx2,fma")]
    fn run<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
        // SAFETY: this function is compiled for the instructions that the vector type needs.
        unsafe { Tile::<vector::Avx2>::run(input, out) }
    }
    // SAFETY: `available_tiles` hands this function out only where the processor has AVX2 and FMA.
    unsafe { run(input, out) }
}

#[cfg(target_arch = "x86_64")]
fn avx512_tile<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
    #[target_feature(enable = "avx512f")]
    fn run<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
        // SAFETY: this function is compiled for the instructions that the vector type needs.
        unsafe { Tile::<vector::Avx512>::run(input, out) }
    }
    // SAFETY: `available_tiles` hands this function out only where the processor has AVX-512F.
    unsafe { run(input, out) }
}
