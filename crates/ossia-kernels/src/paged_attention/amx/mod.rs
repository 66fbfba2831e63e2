//! Rows that meet keys and values in AMX tiles, over caches in bf16.
//!
//! Lanes are rows, sixteen to a block: a tile of logits is `[16 keys, 16 rows]`, one of weighted values
//! `[16 dimensions, 16 rows]`, so that maxima, powers and sums need no exchange between lanes and one row has the bits it
//! has among many. Keys, and values once transposed, are tiles as they are; queries and powers are rounded to bf16.

mod pack;
mod products;
mod sums;

use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

use float8::F8E4M3;
use half::bf16;

use super::chunk::{Chunk, prefetch_next};
use super::tile::{Rows, TileInput};
use super::vector::{Avx512, exp2_nonpositive};
use super::{AttentionShape, CHUNK_LEN};
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES, TileConfig, Tiles};
use crate::cpu::{Isa, Scratch};
use crate::fp8;
use pack::FetchedTiles;
use products::Products;

/// Rows of a block, and keys or dimensions of a tile.
const SIDE: usize = 16;
/// Values that a tile product sums: keys of a step where they are keys.
const DEPTH: usize = 32;
/// Steps of a chunk.
const STEPS: usize = CHUNK_LEN / DEPTH;
/// Tiles of a chunk's keys.
const KEY_TILES: usize = CHUNK_LEN / SIDE;
/// Tiles of dimensions whose sums are in registers at a time.
const DIM_TILES: usize = 4;
/// Values of a tile of f32.
const TILE_LEN: usize = SIDE * SIDE;
/// Logits of a block with a chunk.
const BLOCK_LEN: usize = CHUNK_LEN * SIDE;

/// Whether this processor has tiles and they fit the heads.
pub(super) fn fits(shape: AttentionShape) -> bool {
    Isa::Amx.is_available()
        && is_x86_feature_detected!("avx512vbmi")
        && shape.head_dim.is_multiple_of(DIM_TILES * SIDE)
}

/// Running state of a task. Its blocks of rows are numbered head by head.
pub(super) struct AmxRows {
    head_dim: usize,
    /// Rows of a head, and the blocks that hold them.
    num_rows: usize,
    num_blocks: usize,
    /// Queries, scaled for powers of two: tiles of 16 pairs of dimensions, `[heads, blocks, head_dim / 32]`.
    queries: Scratch,
    /// What the span's keys so far gave, and what the sink and the spans before gave, block by block; see [`sums`].
    span: Scratch,
    total: Scratch,
    /// The sums of a head row by row, for who asks.
    by_row: Vec<f32>,
    fetched: [Option<FetchedTiles>; FETCHED],
    /// Of two blocks, `[CHUNK_LEN, 16]`.
    logits: Scratch,
    /// Of two blocks, a tile of 16 pairs of keys for each step.
    powers: Scratch,
    /// What the chunk adds to the values of a block, `[head_dim, 16]`.
    added: Scratch,
    _configured: Tiles,
}

/// Heads whose keys or values are in use at a time: one is fetched, and three are in a stage each of [`AmxRows::add_chunk`].
const FETCHED: usize = 4;

impl Rows<bf16> for AmxRows {
    fn padded_rows(input: &TileInput<bf16>) -> usize {
        input.num_rows().next_multiple_of(SIDE)
    }

    #[inline(always)]
    unsafe fn widen_e4m3(from: &[F8E4M3], to: &mut [bf16]) {
        // SAFETY: the condition of the trait; processors with AMX have AVX-512 VBMI.
        unsafe { fp8::widen_avx512(from, to) }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn new(input: &TileInput<bf16>) -> Self {
        let (head_dim, num_rows) = (input.op.shape.head_dim, input.num_rows());
        let num_blocks = num_rows.div_ceil(SIDE);
        let num_heads = input.kv_heads.len();
        let sums_len = num_heads * num_blocks * sums::len(head_dim);
        let mut state = Self {
            head_dim,
            num_rows,
            num_blocks,
            queries: Scratch::new(num_heads * num_blocks * head_dim / DEPTH * TILE_LEN),
            span: Scratch::new(sums_len),
            total: Scratch::new(sums_len),
            by_row: Vec::new(),
            fetched: [const { None }; FETCHED],
            logits: Scratch::new(2 * BLOCK_LEN),
            powers: Scratch::new(2 * STEPS * TILE_LEN),
            added: Scratch::new(head_dim * SIDE),
            // SAFETY: AMX by the condition of the trait; all tiles are full.
            _configured: unsafe { TileConfig::with_narrow(&[], TILE_ROW_BYTES).load() },
        };
        let queries = state.queries.chunks_exact_mut(head_dim / DEPTH * TILE_LEN);
        let spans = state.span.chunks_exact_mut(sums::len(head_dim));
        let totals = state.total.chunks_exact_mut(sums::len(head_dim));
        for (at, ((queries, span), total)) in queries.zip(spans).zip(totals).enumerate() {
            let (kv_head, row) = (input.kv_heads.start + at / num_blocks, at % num_blocks * SIDE);
            // SAFETY: the condition of the trait.
            unsafe { pack::queries(input, kv_head, row, queries) };
            sums::of_nothing(span);
            sums::of_nothing(total);
            for row in row..num_rows.min(row + SIDE) {
                let (head, _) = input.head_and_query(kv_head, row);
                sums::put_sink(total, row % SIDE, input.op.layer.sinks[head] * LOG2_E);
            }
        }
        state
    }

    /// Takes the blocks of all heads through three stages: a block's logits are multiplied while the powers of the one
    /// before are computed, and the values of the one before that.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn add_chunk(&mut self, input: &TileInput<bf16>, chunk: &Chunk) {
        let blocks = (0..self.num_blocks).map(|block| (block, self.steps(chunk, block)));
        let blocks: Vec<_> = blocks.filter(|(_, steps)| !steps.is_empty()).collect();
        let jobs: Vec<Job> = (0..input.kv_heads.len() * blocks.len())
            .map(|at| {
                let (head, (block, steps)) = (at / blocks.len(), blocks[at % blocks.len()].clone());
                Job { head, is_first: at % blocks.len() == 0, block, steps }
            })
            .collect();
        let mut shrinks = [_mm512_setzero_ps(); 2];
        // SAFETY: the condition of the trait; buffers are as long as their fields say.
        unsafe {
            if let Some(job) = jobs.first() {
                self.fetch(input, chunk, job.head);
            }
            for round in 0..jobs.len() + 2 {
                let values_of = round.checked_sub(2).map(|at| &jobs[at]);
                let mut products = self.products(jobs.get(round), values_of, round % 2);
                if let Some(job) = jobs.get(round + 1).filter(|job| job.is_first) {
                    self.fetch(input, chunk, job.head);
                }
                if let Some(job) = round.checked_sub(1).and_then(|at| jobs.get(at)) {
                    let slot = (round - 1) % 2;
                    if chunk.masked {
                        mask(&mut self.logits[slot * BLOCK_LEN..][..BLOCK_LEN], chunk, job);
                    }
                    shrinks[slot] = self.powers(job, slot, &mut products);
                }
                products.finish();
                if let Some(job) = values_of {
                    let sums = self.sums_of(job);
                    sums::add_values(&mut self.span[sums], shrinks[round % 2], &self.added);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn end_span(&mut self) {
        let len = sums::len(self.head_dim);
        for (total, span) in self.total.chunks_exact_mut(len).zip(self.span.chunks_exact_mut(len)) {
            // SAFETY: the condition of the trait.
            unsafe { sums::merge(total, span) };
            sums::of_nothing(span);
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn span(&mut self, head: usize) -> &[f32] {
        let sums = self.sums_of_head(head);
        // SAFETY: the condition of the trait.
        unsafe { sums::by_row(&self.span[sums], self.head_dim, &mut self.by_row) };
        &self.by_row
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn total(&mut self, head: usize) -> &[f32] {
        let sums = self.sums_of_head(head);
        // SAFETY: the condition of the trait.
        unsafe { sums::by_row(&self.total[sums], self.head_dim, &mut self.by_row) };
        &self.by_row
    }
}

const NO_KEYS: ([*const u8; KEY_TILES], usize) = ([std::ptr::null(); KEY_TILES], 0);

/// A block of a head, and its steps of the chunk.
struct Job {
    head: usize,
    /// Whether it is the head's first.
    is_first: bool,
    block: usize,
    steps: Range<usize>,
}

impl AmxRows {
    /// The steps of a chunk of which some row of a block sees something.
    fn steps(&self, chunk: &Chunk, block: usize) -> Range<usize> {
        if !chunk.masked {
            return 0..STEPS;
        }
        // Later rows see no earlier keys.
        let first = chunk.first[block * SIDE].max(0.0) as usize;
        let last = chunk.last[self.num_rows.min((block + 1) * SIDE) - 1];
        if last < 0.0 || first >= CHUNK_LEN {
            return 0..0;
        }
        first / DEPTH..(last as usize / DEPTH + 1).min(STEPS)
    }

    /// Where the sums of a head's blocks are.
    fn sums_of_head(&self, head: usize) -> Range<usize> {
        let len = self.num_blocks * sums::len(self.head_dim);
        head * len..(head + 1) * len
    }

    /// Where the sums of a block are.
    fn sums_of(&self, job: &Job) -> Range<usize> {
        let len = sums::len(self.head_dim);
        let at = self.sums_of_head(job.head).start + job.block * len;
        at..at + len
    }

    /// Fetches the chunk's keys and values of the task's `head`-th head, and asks memory for those of the next chunk.
    ///
    /// # Safety
    /// As for [`Rows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn fetch(&mut self, input: &TileInput<bf16>, chunk: &Chunk, head: usize) {
        let kv_head = input.kv_heads.start + head;
        prefetch_next(&input.cache, self.head_dim, chunk, kv_head, 0..CHUNK_LEN);
        let fetched = self.fetched[head % FETCHED].get_or_insert_with(|| FetchedTiles::new(self.head_dim));
        // SAFETY: the condition above.
        unsafe { fetched.fetch(input, chunk, kv_head, self.num_blocks) };
    }

    /// The products of a round.
    fn products(&mut self, logits_of: Option<&Job>, values_of: Option<&Job>, slot: usize) -> Products {
        let fetched = |job: &Job| self.fetched[job.head % FETCHED].as_ref();
        let (keys, key_stride) = logits_of.and_then(fetched).map_or(NO_KEYS, FetchedTiles::keys);
        let values = values_of.and_then(fetched).map_or(std::ptr::null(), FetchedTiles::values);
        let block = logits_of.map_or(0, |job| job.head * self.num_blocks + job.block);
        let steps = |job: Option<&Job>| job.map_or(0..0, |job| job.steps.clone());
        Products {
            head_dim: self.head_dim,
            next: 0,
            logit_steps: steps(logits_of),
            queries: self.queries[block * self.head_dim / DEPTH * TILE_LEN..].as_ptr().cast(),
            keys,
            key_stride,
            logits: self.logits[slot * BLOCK_LEN..].as_mut_ptr().cast(),
            value_steps: steps(values_of),
            powers: self.powers[slot * STEPS * TILE_LEN..].as_ptr().cast(),
            values,
            added: self.added.as_mut_ptr().cast(),
        }
    }

    /// Turns logits into powers relative to the largest so far, in pairs of keys, and merges maxima and sums; runs
    /// products on the way. Returns what the rows' earlier values are to shrink by.
    ///
    /// # Safety
    /// As for [`Rows`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn powers(&mut self, job: &Job, slot: usize, products: &mut Products) -> __m512 {
        let sums = self.sums_of(job);
        let [max_at, sum_at] = sums::max_and_sum(&mut self.span[sums]);
        let logits = self.logits[slot * BLOCK_LEN..][..BLOCK_LEN].as_ptr();
        let powers = self.powers[slot * STEPS * TILE_LEN..][..STEPS * TILE_LEN].as_mut_ptr();
        let keys = job.steps.start * DEPTH..job.steps.end * DEPTH;
        // SAFETY: the condition above; see the buffers' sizes.
        unsafe {
            let mut largest = [_mm512_load_ps(max_at); 4];
            for key in keys.clone().step_by(4) {
                for (ahead, largest) in largest.iter_mut().enumerate() {
                    *largest = _mm512_max_ps(*largest, _mm512_load_ps(logits.add((key + ahead) * SIDE)));
                }
            }
            let [a, b, c, d] = largest;
            let max = _mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d));
            let shrink = exp2(_mm512_sub_ps(_mm512_load_ps(max_at), max));
            let mut sums = [_mm512_setzero_ps(); 4];
            for key in keys.step_by(4) {
                if key.is_multiple_of(DEPTH / 2) {
                    products.run_next();
                }
                for ahead in [0, 2] {
                    let at = logits.add((key + ahead) * SIDE);
                    let even = exp2(_mm512_sub_ps(_mm512_load_ps(at), max));
                    let odd = exp2(_mm512_sub_ps(_mm512_load_ps(at.add(SIDE)), max));
                    sums[ahead] = _mm512_add_ps(sums[ahead], even);
                    sums[ahead + 1] = _mm512_add_ps(sums[ahead + 1], odd);
                    _mm512_store_si512(powers.add((key + ahead) / 2 * SIDE).cast(), pack::pairs(even, odd));
                }
            }
            let [a, b, c, d] = sums;
            let sum = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
            _mm512_store_ps(max_at, max);
            _mm512_store_ps(sum_at, _mm512_fmadd_ps(_mm512_load_ps(sum_at), shrink, sum));
            shrink
        }
    }
}

/// Minus infinity where a row of the block does not see a key.
///
/// # Safety
/// AVX-512F; the chunk is for these rows.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn mask(logits: &mut [f32], chunk: &Chunk, job: &Job) {
    // SAFETY: the condition above.
    unsafe {
        let first = _mm512_loadu_ps(chunk.first[job.block * SIDE..][..SIDE].as_ptr());
        let last = _mm512_loadu_ps(chunk.last[job.block * SIDE..][..SIDE].as_ptr());
        for key in job.steps.start * DEPTH..job.steps.end * DEPTH {
            let position = _mm512_set1_ps(key as f32);
            let seen = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(position, first)
                & _mm512_cmp_ps_mask::<_CMP_LE_OQ>(position, last);
            let at = logits[key * SIDE..][..SIDE].as_mut_ptr();
            _mm512_store_ps(
                at,
                _mm512_mask_mov_ps(_mm512_set1_ps(f32::NEG_INFINITY), seen, _mm512_load_ps(at)),
            );
        }
    }
}

/// [`exp2_nonpositive`] of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp2(x: __m512) -> __m512 {
    // SAFETY: AVX-512F.
    unsafe { exp2_nonpositive(Avx512(x)).0 }
}

const _: () = assert!(STEPS * DEPTH == CHUNK_LEN && TILE_BYTES == TILE_LEN * size_of::<f32>());
