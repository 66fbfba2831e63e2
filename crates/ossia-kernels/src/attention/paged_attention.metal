// Attention over the paged cache with sinks and windows: a threadgroup has one query and head. Its simdgroups take keys in
// turn at absolute positions, a key at a time over all lanes, each with a softmax of its own; the parts are joined at the
// end. So a query's bits depend on what it sees alone.

#include "../metal/prelude.h"

#define ATTENTION_SIMDGROUPS 8
#define ATTENTION_MAX_HEAD_DIM 128
// Dimensions of a lane.
#define ATTENTION_LANE_DIMS (ATTENTION_MAX_HEAD_DIM / SIMD_LANES)

struct PagedAttentionArgs {
  uint num_heads;
  uint num_kv_heads;
  uint head_dim;  // at most ATTENTION_MAX_HEAD_DIM
  uint block_size;
  uint window;  // positions seen, the query's own included; 0: all
  float scale;
};

struct PagedAttentionShared {
  float sums[ATTENTION_SIMDGROUPS][ATTENTION_MAX_HEAD_DIM];
  float max[ATTENTION_SIMDGROUPS];
  float sum[ATTENTION_SIMDGROUPS];
};

/// q and out `[n, heads, head_dim]`; caches bf16 `[num_blocks, block_size, kv_heads, head_dim]`; `tokens` those of this launch. For
/// each token its sequence and position; for each sequence where its blocks start in `blocks`, and which of its blocks that is.
/// Grid [heads, tokens].
kernel void paged_attention_bf16(device const float *q, device const ushort *k_cache, device const ushort *v_cache,
                                 device const uint *tokens, device const uint *token_seqs,
                                 device const uint *positions, device const uint *table_starts,
                                 device const uint *first_blocks, device const uint *blocks, device const float *sinks,
                                 device float *out,
                                 constant PagedAttentionArgs &args, uint3 group [[threadgroup_position_in_grid]],
                                 uint index [[thread_index_in_threadgroup]]) {
  SHARED(PagedAttentionShared, shared);
  const uint head = group.x, token = tokens[group.y], simdgroup = index / SIMD_LANES, lane = index % SIMD_LANES;
  const uint kv_head = head / (args.num_heads / args.num_kv_heads), seq = token_seqs[token];
  const uint end = positions[token] + 1, first = args.window && end > args.window ? end - args.window : 0;
  device const uint *table = blocks + table_starts[seq];
  const ulong at = (ulong(token) * args.num_heads + head) * args.head_dim;

  float query[ATTENTION_LANE_DIMS], mixed[ATTENTION_LANE_DIMS];
  for (uint i = 0; i < ATTENTION_LANE_DIMS; i++) {
    const uint dim = lane + i * SIMD_LANES;
    query[i] = dim < args.head_dim ? q[at + dim] * args.scale : 0.0f;
    mixed[i] = 0;
  }
  float max = -INFINITY, sum = 0;
  // The first position of this simdgroup that is seen: it has every ATTENTION_SIMDGROUPS-th.
  const uint skipped = (simdgroup + ATTENTION_SIMDGROUPS - first % ATTENTION_SIMDGROUPS) % ATTENTION_SIMDGROUPS;
  for (uint position = first + skipped; position < end; position += ATTENTION_SIMDGROUPS) {
    const ulong block = table[position / args.block_size - first_blocks[seq]];
    const ulong slot = block * args.block_size + position % args.block_size;
    const ulong key = (slot * args.num_kv_heads + kv_head) * args.head_dim;
    float logit = 0;
    for (uint i = 0; i < ATTENTION_LANE_DIMS; i++) {
      const uint dim = lane + i * SIMD_LANES;
      if (dim < args.head_dim) logit += query[i] * bf16_to_f32(k_cache[key + dim]);
    }
    logit = simd_sum(logit);
    const float larger = fmax(max, logit), rescale = exp(max - larger), weight = exp(logit - larger);
    for (uint i = 0; i < ATTENTION_LANE_DIMS; i++) {
      const uint dim = lane + i * SIMD_LANES;
      if (dim < args.head_dim) mixed[i] = mixed[i] * rescale + weight * bf16_to_f32(v_cache[key + dim]);
    }
    sum = sum * rescale + weight;
    max = larger;
  }
  for (uint i = 0; i < ATTENTION_LANE_DIMS; i++) shared.sums[simdgroup][lane + i * SIMD_LANES] = mixed[i];
  if (lane == 0) {
    shared.max[simdgroup] = max;
    shared.sum[simdgroup] = sum;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // The sink takes its share and has no value. A part without keys has a weight of zero.
  float largest = sinks[head];
  for (uint i = 0; i < ATTENTION_SIMDGROUPS; i++) largest = fmax(largest, shared.max[i]);
  float total = exp(sinks[head] - largest);
  for (uint i = 0; i < ATTENTION_SIMDGROUPS; i++) total += shared.sum[i] * exp(shared.max[i] - largest);
  for (uint dim = index; dim < args.head_dim; dim += ATTENTION_SIMDGROUPS * SIMD_LANES) {
    float value = 0;
    for (uint i = 0; i < ATTENTION_SIMDGROUPS; i++) value += shared.sums[i][dim] * exp(shared.max[i] - largest);
    out[at + dim] = value / total;
  }
}

TWIN(paged_attention_bf16)
