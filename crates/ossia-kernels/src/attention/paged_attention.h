// What the kernels of attention for few queries share: their arguments, and which keys a part holds.
#pragma once

#include "cache.h"

// Keys of a part, at absolute multiples of it.
#define SPLIT_LEN 256

struct PagedAttentionArgs {
  const float *q;                  // [n, heads, head_dim], rotated
  const uint32_t *tokens;          // [count]: the queries of this launch
  const void *k_cache;             // [num_blocks, block_size, kv_heads, head_dim]
  const void *v_cache;             // the same
  const uint32_t *token_seqs;      // [n]: the sequence of each token
  const uint32_t *positions;       // [n]: its position
  const uint32_t *table_starts;    // [num_seqs]: where a sequence's blocks start in `blocks`
  const uint32_t *first_blocks;    // [num_seqs]: which of its blocks that is
  const uint32_t *blocks;          // block ids
  const float *sinks;              // [heads]
  float *part_out;                 // [count, heads, max_splits, head_dim]: unscaled sums of values
  float *part_max;                 // [count, heads, max_splits]
  float *part_sum;                 // [count, heads, max_splits]
  float *out;                      // [n, heads, head_dim]
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;  // a multiple of 8
  uint32_t block_size;
  uint32_t max_splits;
  uint32_t window;  // positions seen, the query's own included; 0: all
  float scale;
};

/// Keys `first..end` that query `token` sees of part `split`; empty if none.
DEVICE void visible(const PagedAttentionArgs &args, uint32_t token, uint32_t split, uint32_t &first, uint32_t &end) {
  const uint32_t position = args.positions[token];
  const uint32_t first_visible = args.window && position + 1 > args.window ? position + 1 - args.window : 0;
  first = (first_visible / SPLIT_LEN + split) * SPLIT_LEN;
  end = first + SPLIT_LEN;
  if (first < first_visible) first = first_visible;
  if (end > position + 1) end = position + 1;
}
