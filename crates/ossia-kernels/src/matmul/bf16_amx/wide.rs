//! More than 16 tokens: weights are staged once and meet all tokens, 32 rows x 32 tokens at a time.
//!
//! `k` is cut into chunks whose weights are staged in the first-level cache. Sums wait in memory between
//! chunks; f32 stores round nothing, so the order of a sum is that of one pass over `k`.

use std::arch::x86_64::{__m512i, _MM_HINT_T1, _mm_prefetch, _mm512_loadu_si512, _mm512_mask_storeu_epi32};
use std::ops::Range;

use super::kernel::{Meanwhile, Sums, TileRun, dot_2x1, dot_2x2};
use super::pack::TiledRows;
use super::stage::Source;
use super::{GROUP, staging};
use crate::cpu::Scratch;
use crate::cpu::amx::{TILE_BYTES, TILE_ROW_BYTES, TileConfig};
use crate::matmul::transpose::transpose_16x16;

/// Weight rows per register pass.
const ROWS: usize = 2 * GROUP;
/// Most blocks of `k` in a chunk.
const MAX_CHUNK: usize = 8;
/// Bytes of staged weights of a piece: two runs of tiles, one per 16 rows.
const STAGE_BYTES: usize = 2 * MAX_CHUNK * TILE_BYTES;
/// Groups of tokens whose sums are kept at a time, so that activations of a chunk fit 128 KiB.
const GROUPS: usize = 16;
/// Up to so many groups, sums of 32 rows and the activations of a small chunk fit the first-level cache.
const FEW_GROUPS: usize = 4;

/// Up to 32 weight rows over one chunk of `k`.
#[derive(Clone, Copy)]
struct Piece {
    row: usize,
    num_rows: usize,
    first_block: usize,
    num_blocks: usize,
}

/// Pieces of `rows` in the order in which they are multiplied.
///
/// With few tokens all of `k` for 32 rows comes first, in small chunks: the sums stay in the first-level
/// cache. With many, a chunk comes first for all rows: its activations stay in the second-level cache.
fn pieces(rows: Range<usize>, num_blocks: usize, num_groups: usize) -> Vec<Piece> {
    let rows_first = num_groups > FEW_GROUPS;
    let chunk = if rows_first { MAX_CHUNK } else { MAX_CHUNK / 2 };
    let piece = |row: usize, first_block: usize| Piece {
        row,
        num_rows: ROWS.min(rows.end - row),
        first_block,
        num_blocks: chunk.min(num_blocks - first_block),
    };
    let all_rows = || rows.clone().step_by(ROWS);
    let all_blocks = || (0..num_blocks).step_by(chunk);
    match rows_first {
        true => all_blocks().flat_map(|block| all_rows().map(move |row| (row, block))).collect::<Vec<_>>(),
        false => all_rows().flat_map(|row| all_blocks().map(move |block| (row, block))).collect(),
    }
    .into_iter()
    .map(|(row, block)| piece(row, block))
    .collect()
}

/// As [`super::product`] for several groups of tokens.
///
/// # Safety
/// As [`super::product`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn product<S: Source>(source: S, rows: Range<usize>, x: &TiledRows, out: &mut [f32]) {
    // SAFETY: AMX was detected; the shapes are full tiles.
    let _tiles = unsafe { TileConfig::with_narrow(&[], TILE_ROW_BYTES).load() };
    let mut stage = staging(2 * STAGE_BYTES);
    let width = GROUP * GROUPS.min(x.num_groups());
    let mut sums = Scratch::new(rows.len().next_multiple_of(ROWS) * width);
    for first_group in (0..x.num_groups()).step_by(GROUPS) {
        let groups = first_group..(first_group + GROUPS).min(x.num_groups());
        let to = Sums { base: sums.as_mut_ptr(), stride: 4 * width };
        // SAFETY: rows are within the weight; the sums hold all rows of `width` tokens.
        unsafe {
            pass(source, rows.clone(), x, groups.clone(), &mut stage, to);
            scatter(&sums, width, groups.start * GROUP, x.num_tokens(), out, rows.len());
        }
    }
}

/// All of `k` for the rows and groups named.
///
/// # Safety
/// As [`product`]; tiles are configured full; `sums` holds all rows of all groups.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pass<S: Source>(
    source: S,
    rows: Range<usize>,
    x: &TiledRows,
    groups: Range<usize>,
    stage: &mut Scratch,
    sums: Sums,
) {
    let staged: *const u8 = stage.as_mut_ptr().cast_const().cast();
    let run = |at: usize| TileRun { base: staged.wrapping_add(at), stride: TILE_ROW_BYTES, step: TILE_BYTES };
    let mut buffers = [0, STAGE_BYTES].map(|at| [run(at), run(at + STAGE_BYTES / 2)]);
    let pieces = pieces(rows.clone(), x.num_blocks(), groups.len());
    // SAFETY: pieces are within rows and blocks; the buffers hold a piece each; sums of a piece start at
    // its rows.
    unsafe {
        Stager::new(source, pieces.first(), buffers[0]).finish();
        for (idx, piece) in pieces.iter().enumerate() {
            let mut stager = Stager::new(source, pieces.get(idx + 1), buffers[1]);
            stager.prefetches_tokens = piece.row == rows.start;
            let base = sums.base.wrapping_byte_add((piece.row - rows.start) * sums.stride);
            multiply_piece(buffers[0], x, groups.clone(), *piece, Sums { base, ..sums }, &mut stager);
            stager.finish();
            buffers.swap(0, 1);
        }
    }
}

/// The staged piece with each pair of groups.
///
/// # Safety
/// As [`pass`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn multiply_piece<S: Source>(
    a: [TileRun; 2],
    x: &TiledRows,
    groups: Range<usize>,
    piece: Piece,
    sums: Sums,
    stager: &mut Stager<S>,
) {
    let run =
        |group: usize| TileRun { base: x.tile(group, piece.first_block), stride: x.stride(), step: x.step() };
    let fresh = piece.first_block == 0;
    for group in groups.clone().step_by(2) {
        let base = sums.base.wrapping_add((group - groups.start) * GROUP);
        let sums = Sums { base, ..sums };
        let ahead = run(group).tile(piece.num_blocks);
        stager.tokens = [ahead, ahead.wrapping_add(x.num_blocks() * x.step())];
        // SAFETY: the groups and blocks are those of `x`; sums have room for all groups.
        unsafe {
            if group + 1 < groups.end {
                dot_2x2(a, [run(group), run(group + 1)], sums, piece.num_blocks, fresh, stager);
            } else {
                dot_2x1(a, run(group), sums, piece.num_blocks, fresh, stager);
            }
        }
    }
}

/// Stages the next piece, a tile at a time.
struct Stager<S> {
    source: S,
    piece: Piece,
    to: [TileRun; 2],
    /// Tiles done, and to be done.
    done: usize,
    count: usize,
    /// Activations of the next chunk for the tokens at work, and whether this piece asks the cache for them.
    tokens: [*const u8; 2],
    prefetches_tokens: bool,
}

impl<S: Source> Stager<S> {
    fn new(source: S, piece: Option<&Piece>, to: [TileRun; 2]) -> Self {
        let count = piece.map_or(0, |piece| 2 * piece.num_blocks);
        let piece = piece.copied().unwrap_or(Piece { row: 0, num_rows: 0, first_block: 0, num_blocks: 0 });
        Self { source, piece, to, done: 0, count, tokens: [std::ptr::null(); 2], prefetches_tokens: false }
    }

    /// # Safety
    /// As [`Meanwhile::step`]; the piece is within the source.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn finish(&mut self) {
        self.prefetches_tokens = false;
        while self.done < self.count {
            // SAFETY: the caller's promise.
            unsafe { self.step() };
        }
    }
}

impl<S: Source> Meanwhile for Stager<S> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn step(&mut self) {
        if self.prefetches_tokens {
            self.tokens = self.tokens.map(prefetch_tile);
        }
        if self.done == self.count {
            return;
        }
        let (block, half) = (self.done / 2, self.done % 2);
        self.done += 1;
        let (row, num_rows) = (self.piece.row + half * GROUP, self.piece.num_rows);
        let num_rows = num_rows.saturating_sub(half * GROUP).min(GROUP);
        let to = self.to[half].tile(block).cast_mut();
        let block = self.piece.first_block + block;
        // SAFETY: rows and blocks of a piece are within the source, its tiles within the buffer.
        unsafe { self.source.stage(row, num_rows, block, to) };
        self.source.prefetch_block(row, num_rows, block + MAX_CHUNK);
    }
}

/// Asks the cache for a tile and returns where the next one starts.
#[inline(always)]
fn prefetch_tile(tile: *const u8) -> *const u8 {
    for line in 0..TILE_BYTES / 64 {
        // SAFETY: a prefetch may name any address.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(tile.wrapping_add(64 * line).cast()) };
    }
    tile.wrapping_add(TILE_BYTES)
}

/// Transposes sums `[_, width]` of tokens from `first_token` on into `out`, `[num_tokens, out_width]`.
///
/// # Safety
/// AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn scatter(
    sums: &[f32],
    width: usize,
    first_token: usize,
    num_tokens: usize,
    out: &mut [f32],
    out_width: usize,
) {
    for row in (0..out_width).step_by(GROUP) {
        let mask = ((1u32 << (out_width - row).min(GROUP)) - 1) as u16;
        for col in (0..width.min(num_tokens - first_token)).step_by(GROUP) {
            let rows: [__m512i; GROUP] = std::array::from_fn(|r| {
                let at = &sums[(row + r) * width + col..][..GROUP];
                // SAFETY: 64 readable bytes.
                unsafe { _mm512_loadu_si512(at.as_ptr().cast()) }
            });
            for (t, values) in transpose_16x16(rows).into_iter().enumerate() {
                let token = first_token + col + t;
                if token < num_tokens {
                    let at = &mut out[token * out_width + row..];
                    // SAFETY: the mask keeps the store within the row of `out`.
                    unsafe { _mm512_mask_storeu_epi32(at.as_mut_ptr().cast(), mask, values) };
                }
            }
        }
    }
}
