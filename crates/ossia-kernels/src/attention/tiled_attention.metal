// Attention over the paged cache for many queries of a sequence, on simdgroup matrices. A threadgroup has the 32 rows of a tile, eight a
// simdgroup, a row being one head of one query; all heads that share a key-value head lie in the same tile. Keys are visited in tiles
// at absolute multiples of their length with a running softmax, so a row's bits depend on its own keys alone.

#include "../metal/prelude.h"

#define TILED_HEAD_DIM 64
#define TILED_KEYS 32
#define TILED_SIMDGROUPS 4
// Rows of a simdgroup: those of a matrix.
#define TILED_ROWS 8
#define TILED_TILE_ROWS (TILED_SIMDGROUPS * TILED_ROWS)
// Lanes that share a row, and what each has of it.
#define TILED_ROW_LANES (SIMD_LANES / TILED_ROWS)
#define TILED_LANE_DIMS (TILED_HEAD_DIM / TILED_ROW_LANES)
#define TILED_LANE_KEYS (TILED_KEYS / TILED_ROW_LANES)

struct TiledAttentionArgs {
  uint count;
  uint num_heads;
  uint num_kv_heads;
  uint block_size;
  uint window;  // positions seen, the query's own included; 0: all
  float scale;
};

struct TiledAttentionShared {
  /// Queries, and at the end what comes of them.
  float rows[TILED_SIMDGROUPS][TILED_ROWS][TILED_HEAD_DIM];
  float k[TILED_KEYS][TILED_HEAD_DIM];
  float v[TILED_KEYS][TILED_HEAD_DIM];
  /// Logits of a tile of keys, then their weights.
  float weights[TILED_SIMDGROUPS][TILED_ROWS][TILED_KEYS];
  /// What each row's sums shrink by, on the diagonal.
  float rescale[TILED_SIMDGROUPS][TILED_ROWS][TILED_ROWS];
};

/// The sequence and first row of a tile; tiles of all sequences are numbered in order.
struct AttentionTile {
  uint seq;
  uint first_token;
  uint first_row;
  uint num_rows;  // of the sequence; 0 past the last tile
  uint first_position;
};

inline AttentionTile attention_tile(device const uint *seqs, device const uint *seq_starts,
                                    device const uint *context_lens, uint count, uint group_size, uint tile) {
  AttentionTile found = {0, 0, 0, 0, 0};
  for (uint i = 0; i < count; i++) {
    const uint seq = seqs[i], num_tokens = seq_starts[seq + 1] - seq_starts[seq], rows = num_tokens * group_size;
    const uint tiles = (rows + TILED_TILE_ROWS - 1) / TILED_TILE_ROWS;
    if (tile < tiles) {
      found.seq = seq;
      found.first_token = seq_starts[seq];
      found.first_row = tile * TILED_TILE_ROWS;
      found.num_rows = rows;
      found.first_position = context_lens[seq] - num_tokens;
      return found;
    }
    tile -= tiles;
  }
  return found;
}

/// The positions that a row sees: none if it is past the end of the sequence.
struct Seen {
  uint first;
  uint end;
};

inline Seen seen_by(AttentionTile tile, uint group_size, uint window, uint row) {
  Seen seen = {0, 0};
  if (row >= tile.num_rows) return seen;
  seen.end = tile.first_position + row / group_size + 1;
  seen.first = window && seen.end > window ? seen.end - window : 0;
  return seen;
}

/// Widens a tile of keys and values: a thread has sixteen dimensions of one key. Those outside `all` are zero.
inline void stage_keys(threadgroup TiledAttentionShared &shared, device const ushort *k_cache, device const ushort *v_cache,
                       device const uint *table, uint first_block, constant TiledAttentionArgs &args, uint kv_head,
                       uint first_key, Seen all, uint index) {
  const uint key = index / TILED_ROW_LANES, part = index % TILED_ROW_LANES * TILED_LANE_DIMS, position = first_key + key;
  const bool is_seen = position >= all.first && position < all.end;
  ulong at = 0;
  if (is_seen) {
    const ulong block = table[position / args.block_size - first_block];
    at = ((block * args.block_size + position % args.block_size) * args.num_kv_heads + kv_head) * TILED_HEAD_DIM + part;
  }
  for (uint i = 0; i < TILED_LANE_DIMS; i++) {
    shared.k[key][part + i] = is_seen ? bf16_to_f32(k_cache[at + i]) : 0.0f;
    shared.v[key][part + i] = is_seen ? bf16_to_f32(v_cache[at + i]) : 0.0f;
  }
}

/// A row's softmax so far, in each of its lanes.
struct RowSoftmax {
  float max;
  float sum;
};

inline float over_row_max(float x) {
  for (ushort lanes = TILED_ROW_LANES / 2; lanes > 0; lanes /= 2) x = fmax(x, simd_shuffle_xor(x, lanes));
  return x;
}
inline float over_row_sum(float x) {
  for (ushort lanes = TILED_ROW_LANES / 2; lanes > 0; lanes /= 2) x += simd_shuffle_xor(x, lanes);
  return x;
}

/// Turns a lane's logits into weights relative to the largest of the row so far; returns what was summed before shrinks by.
inline float exponentiate(threadgroup float *logits, Seen seen, uint first_key, thread RowSoftmax &row) {
  float max = row.max;
  for (uint i = 0; i < TILED_LANE_KEYS; i++) {
    const uint key = first_key + i;
    if (key < seen.first || key >= seen.end) logits[i] = -INFINITY;
    max = fmax(max, logits[i]);
  }
  max = over_row_max(max);
  const float base = max == -INFINITY ? 0.0f : max;  // nothing seen yet
  float sum = 0;
  for (uint i = 0; i < TILED_LANE_KEYS; i++) {
    logits[i] = exp(logits[i] - base);
    sum += logits[i];
  }
  const float rescale = exp(row.max - base);
  row.sum = row.sum * rescale + over_row_sum(sum);
  row.max = max;
  return rescale;
}

/// q and out `[n, heads, TILED_HEAD_DIM]`; caches bf16 `[num_blocks, block_size, kv_heads, TILED_HEAD_DIM]`; `seqs` those of this
/// launch, and for each sequence of the batch where its tokens begin, its context, where its blocks start in `blocks`, and which of
/// its blocks that is. Grid [most tiles, kv_heads].
kernel void tiled_attention_f32_bf16(device const float *q, device const ushort *k_cache, device const ushort *v_cache,
                                     device const uint *seqs, device const uint *seq_starts,
                                     device const uint *context_lens, device const uint *table_starts,
                                     device const uint *first_blocks, device const uint *blocks,
                                     device const float *sinks, device float *out, constant TiledAttentionArgs &args,
                                     uint3 group [[threadgroup_position_in_grid]],
                                     uint index [[thread_index_in_threadgroup]]) {
  SHARED(TiledAttentionShared, shared);
  const uint group_size = args.num_heads / args.num_kv_heads, kv_head = group.y;
  const AttentionTile tile = attention_tile(seqs, seq_starts, context_lens, args.count, group_size, group.x);
  if (tile.num_rows == 0) return;
  const uint simdgroup = index / SIMD_LANES, lane = index % SIMD_LANES, row_of_simdgroup = lane / TILED_ROW_LANES;
  const uint row = tile.first_row + simdgroup * TILED_ROWS + row_of_simdgroup, part = lane % TILED_ROW_LANES;
  const Seen seen = seen_by(tile, group_size, args.window, row);
  const uint head = kv_head * group_size + row % group_size;
  const ulong at = (ulong(tile.first_token + row / group_size) * args.num_heads + head) * TILED_HEAD_DIM + part * TILED_LANE_DIMS;

  threadgroup float *own = &shared.rows[simdgroup][row_of_simdgroup][part * TILED_LANE_DIMS];
  for (uint i = 0; i < TILED_LANE_DIMS; i++) own[i] = row < tile.num_rows ? q[at + i] * args.scale : 0.0f;
  simdgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_float8x8 queries[TILED_HEAD_DIM / 8], sums[TILED_HEAD_DIM / 8];
  const simdgroup_float8x8 zero = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint dim = 0; dim < TILED_HEAD_DIM / 8; dim++) {
    simdgroup_load(queries[dim], &shared.rows[simdgroup][0][dim * 8], TILED_HEAD_DIM);
    sums[dim] = zero;
  }

  // Keys that any row of the tile sees: from the first row's first to the last row's last.
  const uint last_row = tile.first_row + TILED_TILE_ROWS < tile.num_rows ? tile.first_row + TILED_TILE_ROWS : tile.num_rows;
  Seen all = seen_by(tile, group_size, args.window, tile.first_row);
  all.end = seen_by(tile, group_size, args.window, last_row - 1).end;
  RowSoftmax softmax = {-INFINITY, 0.0f};
  for (uint keys = all.first / TILED_KEYS * TILED_KEYS; keys < all.end; keys += TILED_KEYS) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage_keys(shared, k_cache, v_cache, blocks + table_starts[tile.seq], first_blocks[tile.seq], args, kv_head, keys, all, index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint n = 0; n < TILED_KEYS / 8; n++) {
      simdgroup_float8x8 logits = zero, k;
      for (uint dim = 0; dim < TILED_HEAD_DIM / 8; dim++) {
        // Keys lie by rows; the product wants them by columns.
        simdgroup_load(k, &shared.k[n * 8][dim * 8], TILED_HEAD_DIM, 0, true);
        simdgroup_multiply_accumulate(logits, queries[dim], k, logits);
      }
      simdgroup_store(logits, &shared.weights[simdgroup][0][n * 8], TILED_KEYS);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    const uint first_key = part * TILED_LANE_KEYS;
    const float rescale = exponentiate(&shared.weights[simdgroup][row_of_simdgroup][first_key], seen, keys + first_key, softmax);
    for (uint i = part; i < TILED_ROWS; i += TILED_ROW_LANES)
      shared.rescale[simdgroup][row_of_simdgroup][i] = i == row_of_simdgroup ? rescale : 0.0f;
    simdgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 shrink, weights, v;
    simdgroup_load(shrink, &shared.rescale[simdgroup][0][0], TILED_ROWS);
    for (uint dim = 0; dim < TILED_HEAD_DIM / 8; dim++) simdgroup_multiply_accumulate(sums[dim], shrink, sums[dim], zero);
    for (uint n = 0; n < TILED_KEYS / 8; n++) {
      simdgroup_load(weights, &shared.weights[simdgroup][0][n * 8], TILED_KEYS);
      for (uint dim = 0; dim < TILED_HEAD_DIM / 8; dim++) {
        simdgroup_load(v, &shared.v[n * 8][dim * 8], TILED_HEAD_DIM);
        simdgroup_multiply_accumulate(sums[dim], weights, v, sums[dim]);
      }
    }
  }
  for (uint dim = 0; dim < TILED_HEAD_DIM / 8; dim++)
    simdgroup_store(sums[dim], &shared.rows[simdgroup][0][dim * 8], TILED_HEAD_DIM);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  if (row >= tile.num_rows) return;
  // The sink takes its share and has no value.
  const float max = fmax(softmax.max, sinks[head]), rescale = exp(softmax.max - max);
  const float factor = rescale / (softmax.sum * rescale + exp(sinks[head] - max));
  for (uint i = 0; i < TILED_LANE_DIMS; i++) out[at + i] = own[i] * factor;
}

TWIN(tiled_attention_f32_bf16)
