// Attention over the paged cache for many queries of a sequence, on the tensor cores. A block has the 64 rows of a tile,
// a row being one head of one query; all heads that share a key-value head lie in the same tile. Keys are visited in
// tiles at absolute multiples of their length with a running softmax, so a row's bits depend on its own keys alone.

#include "cache.h"

#define HEAD_DIM 64
#define TILE_ROWS 64
#define TILE_KEYS 64
// Each warp has sixteen rows.
#define THREADS 128
// Eight dimensions are a chunk of a key.
#define CHUNKS (HEAD_DIM / 8)
#define LOG2_E 1.4426950408889634f

struct TiledAttentionArgs {
  const float *q;                // [n, heads, HEAD_DIM], rotated
  const void *k_cache;           // [num_blocks, block_size, kv_heads, HEAD_DIM]
  const void *v_cache;           // the same
  const uint32_t *seqs;          // [count]: the sequences of this launch
  const uint32_t *seq_starts;    // [num_seqs + 1]: where each sequence's tokens begin
  const uint32_t *context_lens;  // [num_seqs]
  const uint32_t *table_starts;  // [num_seqs]: where a sequence's blocks start in `blocks`
  const uint32_t *first_blocks;  // [num_seqs]: which of its blocks that is
  const uint32_t *blocks;        // block ids
  const float *sinks;            // [heads]
  float *out;                    // [n, heads, HEAD_DIM]
  uint32_t count;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t block_size;
  uint32_t window;  // positions seen, the query's own included; 0: all
  float scale;
};

/// Two tiles of keys and values: one is multiplied while the next is copied.
template <class Cache>
struct TiledAttentionShared {
  typename Cache::Eight k[2][TILE_KEYS * CHUNKS];
  typename Cache::Eight v[2][TILE_KEYS * CHUNKS];
};

/// The sequence and first row of a tile; tiles of all sequences are numbered in order.
struct Tile {
  uint32_t seq;
  uint32_t first_row;
  uint32_t num_rows;  // of the sequence; 0 past the last tile
};

DEVICE Tile find_tile(const TiledAttentionArgs &args, uint32_t tile) {
  const uint32_t group = args.num_heads / args.num_kv_heads;
  for (uint32_t i = 0; i < args.count; i++) {
    const uint32_t seq = args.seqs[i], rows = (args.seq_starts[seq + 1] - args.seq_starts[seq]) * group;
    const uint32_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS;
    if (tile < tiles) return {seq, tile * TILE_ROWS, rows};
    tile -= tiles;
  }
  return {0, 0, 0};
}

/// One of the two rows of a lane: what it sees and its softmax so far.
struct Row {
  uint32_t first;  // position of the first key seen
  uint32_t end;    // position past the last
  float max;
  float sum;
};

/// Rows past the end of the sequence see nothing.
DEVICE Row make_row(const TiledAttentionArgs &args, const Tile &tile, uint32_t row) {
  if (row >= tile.num_rows) return {0, 0, -INFINITY, 0};
  const uint32_t group = args.num_heads / args.num_kv_heads;
  const uint32_t num_tokens = args.seq_starts[tile.seq + 1] - args.seq_starts[tile.seq];
  const uint32_t end = args.context_lens[tile.seq] - num_tokens + row / group + 1;
  return {args.window && end > args.window ? end - args.window : 0, end, -INFINITY, 0};
}

/// Where the query of a row lies in `q` and `out`.
DEVICE size_t place(const TiledAttentionArgs &args, const Tile &tile, uint32_t kv_head, uint32_t row) {
  const uint32_t group = args.num_heads / args.num_kv_heads;
  const size_t token = args.seq_starts[tile.seq] + row / group;
  return (token * args.num_heads + kv_head * group + row % group) * HEAD_DIM;
}

/// Begins to copy the keys and values of a tile; those outside `first..end` are zero.
template <class Cache>
DEVICE void stage(const TiledAttentionArgs &args, TiledAttentionShared<Cache> &shared, uint32_t seq, uint32_t kv_head,
                  uint32_t tile, uint32_t first, uint32_t end) {
  const uint32_t *table = args.blocks + args.table_starts[seq], buffer = tile / TILE_KEYS % 2;
  for (uint32_t i = threadIdx.x; i < TILE_KEYS * CHUNKS; i += THREADS) {
    const uint32_t key = i / CHUNKS, chunk = i % CHUNKS, position = tile + key, place = Cache::place(key, chunk);
    const bool seen = position >= first && position < end;
    size_t at = 0;
    if (seen) {
      const size_t block = table[position / args.block_size - args.first_blocks[seq]];
      const size_t slot = block * args.block_size + position % args.block_size;
      at = (slot * args.num_kv_heads + kv_head) * HEAD_DIM + chunk * 8;
    }
    Cache::copy_async(&shared.k[buffer][place], args.k_cache, at, seen);
    Cache::copy_async(&shared.v[buffer][place], args.v_cache, at, seen);
  }
  commit_copies();
}

/// A row's query rounded to bf16: dims t * 8..t * 8 + 8 of a half. Rows that are not there are zero.
DEVICE uint4 load_query(const TiledAttentionArgs &args, const Tile &tile, uint32_t kv_head, uint32_t row, int half) {
  if (row >= tile.num_rows) return {0, 0, 0, 0};
  const float *at = args.q + place(args, tile, kv_head, row) + half * 32 + threadIdx.x % 4 * 8;
  return {pack_bf16(at[0], at[1]), pack_bf16(at[2], at[3]), pack_bf16(at[4], at[5]), pack_bf16(at[6], at[7])};
}

/// Turns one row's logits of a key tile into weights relative to the largest so far, in powers of two, and says by how much what was
/// summed before shrinks. `half` picks the row: elements 0 and 1 of each accumulator or 2 and 3.
DEVICE float exponentiate(Row &row, float (&s)[TILE_KEYS / 8][4], int half, uint32_t first_key, float scale) {
  float max = row.max;
#pragma unroll
  for (int n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint32_t key = first_key + n * 8 + i;
      float &logit = s[n][2 * half + i];
      logit = key >= row.first && key < row.end ? logit * scale : -INFINITY;
      max = fmaxf(max, logit);
    }
  max = quad_max(max);
  const float base = max == -INFINITY ? 0 : max;  // nothing seen yet
  const float rescale = exp2_of(row.max - base);
  float sum = 0;
#pragma unroll
  for (int n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float &weight = s[n][2 * half + i];
      weight = exp2_of(weight - base);
      sum += weight;
    }
  row.sum = row.sum * rescale + quad_sum(sum);
  row.max = max;
  return rescale;
}

/// Grid [most tiles, kv_heads].
template <class Cache>
DEVICE void tiled_attention(const TiledAttentionArgs &args) {
  SHARED(TiledAttentionShared<Cache>, shared);
  await_previous();
  const Tile tile = find_tile(args, blockIdx.x);
  if (tile.num_rows == 0) return;
  const uint32_t kv_head = blockIdx.y, warp = threadIdx.x / WARP_LANES;
  const uint32_t g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4;
  const uint32_t row_index[2] = {tile.first_row + warp * 16 + g, tile.first_row + warp * 16 + g + 8};
  Row rows[2] = {make_row(args, tile, row_index[0]), make_row(args, tile, row_index[1])};

  uint4 q[2][2];
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int r = 0; r < 2; r++) q[half][r] = load_query(args, tile, kv_head, row_index[r], half);

  // Keys that any row of the tile sees: the first row's first to the last row's last.
  const uint32_t last_row = tile.first_row + TILE_ROWS < tile.num_rows ? tile.first_row + TILE_ROWS : tile.num_rows;
  const uint32_t first = make_row(args, tile, tile.first_row).first, end = make_row(args, tile, last_row - 1).end;
  float acc[HEAD_DIM / 8][4] = {};
  stage(args, shared, tile.seq, kv_head, first / TILE_KEYS * TILE_KEYS, first, end);
  for (uint32_t keys = first / TILE_KEYS * TILE_KEYS; keys < end; keys += TILE_KEYS) {
    const uint32_t buffer = keys / TILE_KEYS % 2;
    wait_for_copies<0>();
    __syncthreads();
    if (keys + TILE_KEYS < end) stage(args, shared, tile.seq, kv_head, keys + TILE_KEYS, first, end);
    float s[TILE_KEYS / 8][4] = {};
#pragma unroll
    for (int n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t key = n * 8 + g;
        const uint4 k = Cache::to_bf16(shared.k[buffer][Cache::place(key, half * 4 + t)]);
        mma_bf16_16x8x16(s[n], {q[half][0].x, q[half][1].x, q[half][0].y, q[half][1].y}, {k.x, k.y});
        mma_bf16_16x8x16(s[n], {q[half][0].z, q[half][1].z, q[half][0].w, q[half][1].w}, {k.z, k.w});
      }
    const float rescale[2] = {exponentiate(rows[0], s, 0, keys + t * 2, args.scale * LOG2_E),
                              exponentiate(rows[1], s, 1, keys + t * 2, args.scale * LOG2_E)};
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) acc[n][i] *= rescale[i / 2];
    // Two neighbouring results of the first product are a left side of the second. Column g of its product j is dimension
    // g * 8 + j, so that a lane's eight dimensions are a chunk.
#pragma unroll
    for (int i = 0; i < TILE_KEYS / 16; i++) {
      const float(&low)[4] = s[2 * i], (&high)[4] = s[2 * i + 1];
      const uint32_t weights[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                                   pack_bf16(high[2], high[3])};
      uint4 v[4];
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const uint32_t key = i * 16 + n / 2 * 8 + t * 2 + n % 2;
        v[n] = Cache::to_bf16(shared.v[buffer][Cache::place(key, g)]);
      }
#pragma unroll
      for (int j = 0; j < HEAD_DIM / 8; j++) mma_bf16_16x8x16(acc[j], weights, {bf16_pair(v[0], v[1], j), bf16_pair(v[2], v[3], j)});
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const uint32_t row = row_index[half];
    if (row >= tile.num_rows) continue;
    // The sink takes its share and has no value.
    const uint32_t group = args.num_heads / args.num_kv_heads;
    const float sink = args.sinks[kv_head * group + row % group] * LOG2_E;
    const float max = fmaxf(rows[half].max, sink), rescale = exp2_of(rows[half].max - max);
    const float factor = rescale / (rows[half].sum * rescale + exp2_of(sink - max));
    float *out = args.out + place(args, tile, kv_head, row) + t * 16;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
      for (int j = 0; j < HEAD_DIM / 8; j++) out[i * 8 + j] = acc[j][2 * half + i] * factor;
  }
}

KERNEL_OF(THREADS, 3) void tiled_attention_bf16(const TiledAttentionArgs args) { tiled_attention<Bf16Cache>(args); }
KERNEL_OF(THREADS, 3) void tiled_attention_fp8(const TiledAttentionArgs args) { tiled_attention<Fp8Cache>(args); }

TWIN(tiled_attention_bf16, TiledAttentionArgs)
TWIN(tiled_attention_fp8, TiledAttentionArgs)
