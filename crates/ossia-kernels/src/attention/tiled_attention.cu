// Attention over the paged cache for many queries of a sequence, on the tensor cores. A block has the 64 rows of a tile,
// a row being one head of one query; all heads that share a key-value head lie in the same tile. Keys are visited in
// tiles at absolute multiples of their length with a running softmax, so a row's bits depend on its own keys alone.

#include "../cuda/kernel.h"

#define HEAD_DIM 64
#define TILE_ROWS 64
#define TILE_KEYS 64
// Each warp has sixteen rows.
#define THREADS 128
// Elements of a staged row: a pad of 16 bytes keeps neighbours out of each other's memory banks.
#define ROW_LEN (HEAD_DIM + 8)

struct TiledAttentionArgs {
  const float *q;                // [n, heads, HEAD_DIM], rotated
  const uint16_t *k_cache;       // bf16 [num_blocks, block_size, kv_heads, HEAD_DIM]
  const uint16_t *v_cache;       // bf16, the same
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

struct TiledAttentionShared {
  alignas(16) uint16_t k[TILE_KEYS][ROW_LEN];
  alignas(16) uint16_t v[TILE_KEYS][ROW_LEN];
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

/// Copies a tile of keys and values into shared memory, 16 bytes a thread. Positions that no query of the tile sees
/// become zero: a weight of zero times what was never written must not be a NaN.
DEVICE void stage(const TiledAttentionArgs &args, TiledAttentionShared &shared, uint32_t seq, uint32_t kv_head,
                  uint32_t tile, uint32_t first, uint32_t end) {
  const uint32_t chunks = HEAD_DIM / 8;
  const uint32_t *table = args.blocks + args.table_starts[seq];
  for (uint32_t i = threadIdx.x; i < TILE_KEYS * chunks; i += THREADS) {
    const uint32_t key = i / chunks, chunk = i % chunks * 8, position = tile + key;
    uint4 k = {0, 0, 0, 0}, v = {0, 0, 0, 0};
    if (position >= first && position < end) {
      const size_t block = table[position / args.block_size - args.first_blocks[seq]];
      const size_t slot = block * args.block_size + position % args.block_size;
      const size_t at = (slot * args.num_kv_heads + kv_head) * HEAD_DIM + chunk;
      k = *reinterpret_cast<const uint4 *>(args.k_cache + at);
      v = *reinterpret_cast<const uint4 *>(args.v_cache + at);
    }
    *reinterpret_cast<uint4 *>(&shared.k[key][chunk]) = k;
    *reinterpret_cast<uint4 *>(&shared.v[key][chunk]) = v;
  }
}

/// The largest over the four lanes that share a row, and the sum.
DEVICE float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
  return fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
}
DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(FULL_WARP, x, 1);
  return x + __shfl_xor_sync(FULL_WARP, x, 2);
}

/// Turns one row's logits of a key tile into weights relative to the largest so far, and says by how much what was
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
  const float rescale = expf(row.max - base);
  float sum = 0;
#pragma unroll
  for (int n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float &weight = s[n][2 * half + i];
      weight = expf(weight - base);
      sum += weight;
    }
  row.sum = row.sum * rescale + quad_sum(sum);
  row.max = max;
  return rescale;
}

/// Grid [most tiles, kv_heads].
KERNEL void tiled_attention_bf16(const TiledAttentionArgs args) {
  SHARED(TiledAttentionShared, shared);
  const Tile tile = find_tile(args, blockIdx.x);
  if (tile.num_rows == 0) return;
  const uint32_t kv_head = blockIdx.y, warp = threadIdx.x / WARP_LANES;
  const uint32_t g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4 * 2;
  const uint32_t row_index[2] = {tile.first_row + warp * 16 + g, tile.first_row + warp * 16 + g + 8};
  Row rows[2] = {make_row(args, tile, row_index[0]), make_row(args, tile, row_index[1])};

  // The lane's part of the queries, rounded to bf16.
  uint32_t q[HEAD_DIM / 16][4];
#pragma unroll
  for (int k = 0; k < HEAD_DIM / 16; k++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t row = row_index[i % 2], dim = k * 16 + i / 2 * 8 + t;
      const float *at = args.q + (row < tile.num_rows ? place(args, tile, kv_head, row) + dim : 0);
      q[k][i] = row < tile.num_rows ? pack_bf16(at[0], at[1]) : 0;
    }

  // Keys that any row of the tile sees: the first row's first to the last row's last.
  const uint32_t last_row = tile.first_row + TILE_ROWS < tile.num_rows ? tile.first_row + TILE_ROWS : tile.num_rows;
  const uint32_t first = make_row(args, tile, tile.first_row).first, end = make_row(args, tile, last_row - 1).end;
  float acc[HEAD_DIM / 8][4] = {};
  for (uint32_t keys = first / TILE_KEYS * TILE_KEYS; keys < end; keys += TILE_KEYS) {
    __syncthreads();
    stage(args, shared, tile.seq, kv_head, keys, first, end);
    __syncthreads();
    const auto word = [](const uint16_t *at) { return *reinterpret_cast<const uint32_t *>(at); };
    float s[TILE_KEYS / 8][4] = {};
#pragma unroll
    for (int n = 0; n < TILE_KEYS / 8; n++)
#pragma unroll
      for (int k = 0; k < HEAD_DIM / 16; k++) {
        const uint16_t *at = &shared.k[n * 8 + g][k * 16 + t];
        const uint32_t b[2] = {word(at), word(at + 8)};
        mma_bf16_16x8x16(s[n], q[k], b);
      }
    const float rescale[2] = {exponentiate(rows[0], s, 0, keys + t, args.scale),
                              exponentiate(rows[1], s, 1, keys + t, args.scale)};
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) acc[n][i] *= rescale[i / 2];
    // Two neighbouring results of the first product are a left side of the second.
#pragma unroll
    for (int k = 0; k < TILE_KEYS / 16; k++) {
      const float(&low)[4] = s[2 * k], (&high)[4] = s[2 * k + 1];
      const uint32_t a[4] = {pack_bf16(low[0], low[1]), pack_bf16(low[2], low[3]), pack_bf16(high[0], high[1]),
                             pack_bf16(high[2], high[3])};
#pragma unroll
      for (int n = 0; n < HEAD_DIM / 8; n++) {
        const uint16_t *at = &shared.v[k * 16 + t][n * 8 + g];
        const uint32_t b[2] = {(uint32_t)at[0] | (uint32_t)at[ROW_LEN] << 16,
                               (uint32_t)at[8 * ROW_LEN] | (uint32_t)at[9 * ROW_LEN] << 16};
        mma_bf16_16x8x16(acc[n], a, b);
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const uint32_t row = row_index[half];
    if (row >= tile.num_rows) continue;
    // The sink takes its share and has no value.
    const float sink = args.sinks[kv_head * (args.num_heads / args.num_kv_heads) + row % (args.num_heads / args.num_kv_heads)];
    const float max = fmaxf(rows[half].max, sink), rescale = expf(rows[half].max - max);
    const float factor = rescale / (rows[half].sum * rescale + expf(sink - max));
    float *out = args.out + place(args, tile, kv_head, row) + t;
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++) {
      out[n * 8] = acc[n][2 * half] * factor;
      out[n * 8 + 1] = acc[n][2 * half + 1] * factor;
    }
  }
}

TWIN(tiled_attention_bf16, TiledAttentionArgs)
