//! Cuts a batch into tasks (queries of one sequence and some key-value heads) and runs them on the pool.

use std::ops::Range;

use float8::F8E4M3;
use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::amx;
use super::staged::{Caches, HeadsOfSlots};
use super::sums::{Sums, padded};
use super::tile::{self, TileInput};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::vector;
use super::vector::Portable;
use super::vector_rows::VectorRows;
use super::{AttentionShape, PagedAttention, SPAN_LEN};
#[cfg(target_arch = "x86_64")]
use crate::cpu::{Bf16Pairs, bf16_pairs};
use crate::cpu::{SharedSlice, for_each_task, num_threads};
use crate::fp8;

/// Rows (query, head of the group) of a tile: enough to pay for fetching its keys, few enough for L2.
const TILE_ROWS: usize = 256;
/// Most queries of a sequence whose spans are shared among tasks: those of a decoding one with its draft. Their time is
/// that of reading its keys and values, as they lie.
const FEW_QUERIES: usize = 8;
/// Tasks per thread worth having, so that a busy core costs its share only.
const TASKS_PER_THREAD: usize = 2;

/// Element type of a cache.
pub(super) trait KvElement: Copy + Sync + Sized {
    /// Exact widening.
    fn to_f32(self) -> f32;
    /// The same number.
    fn of_e4m3(x: F8E4M3) -> Self;
    /// The nearest number, the larger one of two.
    fn of_f32(x: f32) -> Self;
    /// The pointer as what it is.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn typed(from: *const Self) -> TypedPointer;
    /// The paths that multiply bf16 as it is, in pairs and in tiles, where they are.
    #[cfg(target_arch = "x86_64")]
    fn bf16_paths(_: AttentionShape) -> [Option<(&'static str, Path<Self>)>; 2] {
        [None, None]
    }
}

/// A pointer to elements of a cache.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) enum TypedPointer {
    F32(*const f32),
    Bf16(*const bf16),
}

impl KvElement for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn of_e4m3(x: F8E4M3) -> Self {
        fp8::to_bf16(x).to_f32()
    }

    #[inline(always)]
    fn of_f32(x: f32) -> Self {
        x
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    fn typed(from: *const Self) -> TypedPointer {
        TypedPointer::F32(from)
    }
}

impl KvElement for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn of_e4m3(x: F8E4M3) -> Self {
        fp8::to_bf16(x)
    }

    #[inline(always)]
    fn of_f32(x: f32) -> Self {
        // NaNs of arithmetic stay such.
        bf16::from_bits((x.to_bits().wrapping_add(0x8000) >> 16) as u16)
    }

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[inline(always)]
    fn typed(from: *const Self) -> TypedPointer {
        TypedPointer::Bf16(from)
    }

    #[cfg(target_arch = "x86_64")]
    fn bf16_paths(shape: AttentionShape) -> [Option<(&'static str, Path<Self>)>; 2] {
        let pairs = Path { run_tile: pairs_tile, merge: avx512_merge };
        let tiles = Path { run_tile: amx_tile, merge: avx512_merge };
        let has_pairs = bf16_pairs() != Bf16Pairs::None && vector::Bf16Pairs::fits(shape);
        [has_pairs.then_some(("avx512_bf16", pairs)), amx::fits(shape).then_some(("amx", tiles))]
    }
}

/// Queries `first_query..first_query + num_queries` (rows of `q`) of one sequence, for some key-value heads.
struct Task {
    seq: usize,
    kv_heads: Range<usize>,
    first_query: usize,
    num_queries: usize,
    spans: Option<Spans>,
}

/// Some spans of a sequence with few queries.
#[derive(Clone)]
struct Spans {
    range: Range<usize>,
    /// Row of sums that they begin with, `[spans, queries, heads]` of [`Sums`].
    first_row: usize,
}

/// What a processor computes attention with.
pub(super) struct Path<T> {
    /// Computes one task, as [`tile::run`].
    run_tile: fn(&TileInput<T>, &mut [f32]),
    /// As [`Sums::merge`].
    merge: fn(&mut [f32], &[f32]),
}

/// Attention of all queries, `[n, heads * head_dim]`.
pub(super) fn attend<T: KvElement>(op: &PagedAttention, q: &[f32], caches: Caches<T>) -> Vec<f32> {
    let path = available_paths(op.shape).pop().map_or_else(portable, |(_, path)| path);
    attend_with(op, q, caches, &path, num_threads())
}

/// [`attend`] with a given path and number of threads; the result depends on neither but for the rounding of the path.
pub(super) fn attend_with<T: KvElement>(
    op: &PagedAttention,
    q: &[f32],
    caches: Caches<T>,
    path: &Path<T>,
    threads: usize,
) -> Vec<f32> {
    let shape = op.shape;
    let sums_len = Sums::len(padded(shape.head_dim));
    let (tasks, num_sums) = tasks(op, threads);
    let mut sums = vec![0f32; num_sums * sums_len];
    let mut out = vec![0f32; q.len()];
    let (to_out, to_sums) = (SharedSlice::new(&mut out), SharedSlice::new(&mut sums));
    // Later tiles see more keys: the longest first keeps the threads busy to the end.
    for_each_task(tasks.len(), threads, |idx| {
        let task = &tasks[tasks.len() - 1 - idx];
        let (to, first_row, num_spans, len) = match &task.spans {
            None => (&to_out, task.first_query * shape.num_heads, 1, shape.head_dim),
            Some(spans) => (&to_sums, spans.first_row, spans.range.len(), sums_len),
        };
        let heads_len = task.kv_heads.len() * shape.group_size() * len;
        let mut tile_out = vec![0f32; num_spans * task.num_queries * heads_len];
        (path.run_tile)(&tile_input(op, task, q, caches), &mut tile_out);
        for (idx, from) in tile_out.chunks(heads_len).enumerate() {
            let row = first_row + idx * shape.num_heads + task.kv_heads.start * shape.group_size();
            // SAFETY: each (query, key-value head, span) belongs to one task, so no other thread writes here.
            unsafe { to.range(row * len..row * len + heads_len) }.copy_from_slice(from);
        }
    });
    add_spans(op, &tasks, &sums, path, &mut out);
    out
}

/// The outputs of queries whose spans were shared among tasks.
fn add_spans<T>(op: &PagedAttention, tasks: &[Task], sums: &[f32], path: &Path<T>, out: &mut [f32]) {
    let (shape, len) = (op.shape, Sums::len(padded(op.shape.head_dim)));
    let mut total = vec![0f32; len];
    // The tasks of a sequence's first heads cover all of its spans.
    let tasks = tasks.iter().filter_map(|task| Some((task, task.spans.as_ref()?)));
    let tasks: Vec<(&Task, &Spans)> = tasks.filter(|(task, _)| task.kv_heads.start == 0).collect();
    for seq in tasks.chunk_by(|(a, _), (b, _)| a.seq == b.seq) {
        let (Task { first_query, num_queries, .. }, Spans { first_row, .. }) = seq[0];
        let num_spans: usize = seq.iter().map(|(_, spans)| spans.range.len()).sum();
        let num_rows = num_queries * shape.num_heads;
        for row in 0..num_rows {
            Sums::of_sink(&mut total, op.layer.sinks[row % shape.num_heads]);
            for span in 0..num_spans {
                (path.merge)(&mut total, &sums[(first_row + span * num_rows + row) * len..][..len]);
            }
            let at = (first_query * shape.num_heads + row) * shape.head_dim;
            Sums::divide(&total, &mut out[at..at + shape.head_dim]);
        }
    }
}

/// The tasks, those of a sequence together and in the order of spans, and the number of rows of sums that they fill.
fn tasks(op: &PagedAttention, threads: usize) -> (Vec<Task>, usize) {
    let tile_queries = (TILE_ROWS / op.shape.group_size()).max(1);
    let num_kv_heads = op.shape.num_kv_heads;
    let bounds = op.metadata.cu_seqlens_q.windows(2).map(|bounds| bounds[0] as usize..bounds[1] as usize);
    let spans = |(queries, &end): (Range<usize>, &u32)| {
        let first = op.first_visible(end as usize - queries.len());
        (queries, first / SPAN_LEN..(end as usize).div_ceil(SPAN_LEN))
    };
    let seqs: Vec<(Range<usize>, Range<usize>)> = bounds.zip(op.metadata.context_lens).map(spans).collect();
    let few = |queries: &Range<usize>| (1..=FEW_QUERIES).contains(&queries.len());
    let num_spans: usize = seqs.iter().filter(|seq| few(&seq.0)).map(|seq| seq.1.len()).sum();
    // Neighbouring heads lie side by side in memory, and so do spans: a task takes as many as leave enough tasks.
    let enough = TASKS_PER_THREAD * threads;
    let heads_of_span = (num_spans * num_kv_heads / enough).clamp(1, num_kv_heads);
    let spans_of_task = (num_spans / enough).max(1);
    let heads = |per_task: usize| {
        (0..num_kv_heads).step_by(per_task).map(move |first| first..num_kv_heads.min(first + per_task))
    };
    let mut tasks = Vec::new();
    let mut num_sums = 0;
    for (seq, (queries, spans)) in seqs.into_iter().enumerate() {
        let (first_query, num_queries) = (queries.start, queries.len());
        if few(&queries) {
            for first in spans.clone().step_by(spans_of_task) {
                let range = first..spans.end.min(first + spans_of_task);
                let some = Spans { range, first_row: num_sums };
                num_sums += some.range.len() * num_queries * op.shape.num_heads;
                tasks.extend(heads(heads_of_span).map(|kv_heads| {
                    let spans = Some(some.clone());
                    Task { seq, kv_heads, first_query, num_queries, spans }
                }));
            }
            continue;
        }
        for first_query in queries.clone().step_by(tile_queries) {
            let num_queries = tile_queries.min(queries.end - first_query);
            tasks.extend(heads(1).map(|kv_heads| Task {
                seq,
                kv_heads,
                first_query,
                num_queries,
                spans: None,
            }));
        }
    }
    (tasks, num_sums)
}

fn tile_input<'a, T>(
    op: &PagedAttention<'a>,
    task: &Task,
    q: &'a [f32],
    caches: Caches<'a, T>,
) -> TileInput<'a, T> {
    let cache = match caches {
        Caches::AsIs(cache) => cache,
        // Nothing is taken from them before it is widened.
        Caches::E4m3(_) | Caches::Int8(_) => HeadsOfSlots::all(0, 0, &[], &[]),
    };
    let context_len = op.metadata.context_lens[task.seq] as usize;
    let end = op.metadata.cu_seqlens_q[task.seq + 1] as usize;
    TileInput {
        op: *op,
        q,
        caches,
        cache,
        table: &op.metadata.block_tables[task.seq],
        kv_heads: task.kv_heads.clone(),
        first_query: task.first_query,
        first_position: context_len - (end - task.first_query),
        num_queries: task.num_queries,
        spans: task.spans.as_ref().map(|spans| spans.range.clone()),
    }
}

/// Every path that this processor runs with such heads and its name, best last.
pub(super) fn available_paths<T: KvElement>(shape: AttentionShape) -> Vec<(&'static str, Path<T>)> {
    std::iter::once(("portable", portable())).chain(own_paths(shape)).collect()
}

/// The paths of an instruction set's own.
#[cfg(target_arch = "x86_64")]
fn own_paths<T: KvElement>(shape: AttentionShape) -> Vec<(&'static str, Path<T>)> {
    let [pairs, tiles] = T::bf16_paths(shape);
    let (slow_pairs, fast_pairs) =
        if bf16_pairs() == Bf16Pairs::Slow { (pairs, None) } else { (None, pairs) };
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx2 = avx2.then_some(("avx2", Path { run_tile: avx2_tile::<T>, merge: avx2_merge }));
    let avx512 = is_x86_feature_detected!("avx512f");
    let avx512 = avx512.then_some(("avx512", Path { run_tile: avx512_tile::<T>, merge: avx512_merge }));
    [slow_pairs, avx2, avx512, fast_pairs, tiles].into_iter().flatten().collect()
}

/// The paths of an instruction set's own.
#[cfg(target_arch = "aarch64")]
fn own_paths<T: KvElement>(_: AttentionShape) -> Vec<(&'static str, Path<T>)> {
    // SAFETY: every aarch64 processor has NEON.
    let run_tile = |input: &TileInput<T>, out: &mut [f32]| unsafe {
        tile::run::<T, VectorRows<vector::Neon>>(input, out)
    };
    // SAFETY: as above.
    let merge = |total: &mut [f32], later: &[f32]| unsafe { Sums::merge::<vector::Neon>(total, later) };
    vec![("neon", Path { run_tile, merge })]
}

/// The paths of an instruction set's own: none.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn own_paths<T: KvElement>(_: AttentionShape) -> Vec<(&'static str, Path<T>)> {
    Vec::new()
}

/// The path in plain Rust.
fn portable<T: KvElement>() -> Path<T> {
    // SAFETY: plain Rust runs everywhere.
    let run_tile =
        |input: &TileInput<T>, out: &mut [f32]| unsafe { tile::run::<T, VectorRows<Portable>>(input, out) };
    // SAFETY: as above.
    let merge = |total: &mut [f32], later: &[f32]| unsafe { Sums::merge::<Portable>(total, later) };
    Path { run_tile, merge }
}

/// Functions compiled for a vector type's instructions.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($vector:ty, $features:literal, $tile:ident, $merge:ident) => {
        fn $tile<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
            #[target_feature(enable = $features)]
            fn run<T: KvElement>(input: &TileInput<T>, out: &mut [f32]) {
                // SAFETY: this function is compiled for the instructions that the vector type needs.
                unsafe { tile::run::<T, VectorRows<$vector>>(input, out) }
            }
            // SAFETY: `available_paths` hands this function out only where the processor has the instructions.
            unsafe { run(input, out) }
        }

        fn $merge(total: &mut [f32], later: &[f32]) {
            #[target_feature(enable = $features)]
            fn run(total: &mut [f32], later: &[f32]) {
                // SAFETY: as above.
                unsafe { Sums::merge::<$vector>(total, later) }
            }
            // SAFETY: as above.
            unsafe { run(total, later) }
        }
    };
}

#[cfg(target_arch = "x86_64")]
fn pairs_tile(input: &TileInput<bf16>, out: &mut [f32]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vbmi")]
    fn run(input: &TileInput<bf16>, out: &mut [f32]) {
        // SAFETY: as above.
        unsafe { tile::run::<bf16, VectorRows<vector::Bf16Pairs>>(input, out) }
    }
    // SAFETY: as above.
    unsafe { run(input, out) }
}

#[cfg(target_arch = "x86_64")]
fn amx_tile(input: &TileInput<bf16>, out: &mut [f32]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
    fn run(input: &TileInput<bf16>, out: &mut [f32]) {
        // SAFETY: as above; `amx::fits` says so of tiles.
        unsafe { tile::run::<bf16, amx::AmxRows>(input, out) }
    }
    // SAFETY: as above.
    unsafe { run(input, out) }
}

#[cfg(target_arch = "x86_64")]
compiled_for!(vector::Avx2, "avx2,fma", avx2_tile, avx2_merge);
#[cfg(target_arch = "x86_64")]
compiled_for!(vector::Avx512, "avx512f", avx512_tile, avx512_merge);
