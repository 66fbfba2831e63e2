// Attention over the paged cache for few queries and heads of any width: the keys of a query are split over blocks of fixed length, so that its
// bits do not depend on who shares its batch, and a second kernel joins the parts with the sink.

#include "paged_attention.h"

// Keys staged at a time.
#define TILE_LEN 64
#define THREADS 128
// Limits: query heads per key-value head, width of a head.
#define MAX_GROUP 16
#define MAX_HEAD_DIM 128
// Elements of a staged row: a pad of 16 bytes keeps neighbours out of each other's memory banks.
#define ROW_LEN (MAX_HEAD_DIM + 8)

struct PagedAttentionShared {
  alignas(16) uint16_t k[TILE_LEN][ROW_LEN];
  alignas(16) uint16_t v[TILE_LEN][ROW_LEN];
  alignas(16) float q[MAX_GROUP][MAX_HEAD_DIM];
  float weights[MAX_GROUP][TILE_LEN];
  float max[MAX_GROUP];
  float sum[MAX_GROUP];
  float rescale[MAX_GROUP];
};

/// Copies keys and values at positions `first..end` of one head into shared memory, eight numbers a thread.
template <class Cache>
DEVICE void stage(const PagedAttentionArgs &args, PagedAttentionShared &shared, uint32_t seq, uint32_t kv_head,
                  uint32_t first, uint32_t end) {
  const uint32_t chunks = args.head_dim / 8;
  const uint32_t *table = args.blocks + args.table_starts[seq];
  for (uint32_t i = threadIdx.x; i < (end - first) * chunks; i += THREADS) {
    const uint32_t key = i / chunks, chunk = i % chunks * 8, position = first + key;
    const size_t block = table[position / args.block_size - args.first_blocks[seq]];
    const size_t slot = block * args.block_size + position % args.block_size;
    const size_t at = (slot * args.num_kv_heads + kv_head) * args.head_dim + chunk;
    *reinterpret_cast<uint4 *>(&shared.k[key][chunk]) = Cache::to_bf16(Cache::stream(args.k_cache, at, true));
    *reinterpret_cast<uint4 *>(&shared.v[key][chunk]) = Cache::to_bf16(Cache::stream(args.v_cache, at, true));
  }
}

DEVICE float dot8(const uint4 &k, const float *q) {
  const float4 a = *reinterpret_cast<const float4 *>(q), b = *reinterpret_cast<const float4 *>(q + 4);
  return low_bf16(k.x) * a.x + high_bf16(k.x) * a.y + low_bf16(k.y) * a.z + high_bf16(k.y) * a.w +
         low_bf16(k.z) * b.x + high_bf16(k.z) * b.y + low_bf16(k.w) * b.z + high_bf16(k.w) * b.w;
}

/// Logits of the staged keys: a thread has one key and every other head of the group.
DEVICE void multiply_keys(const PagedAttentionArgs &args, PagedAttentionShared &shared, uint32_t group, uint32_t len) {
  const uint32_t key = threadIdx.x % TILE_LEN;
  for (uint32_t head = threadIdx.x / TILE_LEN; head < group; head += THREADS / TILE_LEN) {
    float logit = 0;
    for (uint32_t chunk = 0; chunk < args.head_dim; chunk += 8)
      if (key < len) logit += dot8(*reinterpret_cast<const uint4 *>(&shared.k[key][chunk]), &shared.q[head][chunk]);
    shared.weights[head][key] = key < len ? logit * args.scale : -INFINITY;
  }
}

/// Turns the staged logits into weights relative to the largest so far: a warp has every fourth head.
DEVICE void exponentiate(PagedAttentionShared &shared, uint32_t group) {
  const uint32_t lane = threadIdx.x % WARP_LANES;
  for (uint32_t head = threadIdx.x / WARP_LANES; head < group; head += THREADS / WARP_LANES) {
    const float a = shared.weights[head][lane], b = shared.weights[head][lane + WARP_LANES];
    const float before = shared.max[head];
    const float max = fmaxf(before, warp_max(fmaxf(a, b)));
    const float wa = expf(a - max), wb = expf(b - max);
    const float sum = warp_sum(wa + wb);
    shared.weights[head][lane] = wa;
    shared.weights[head][lane + WARP_LANES] = wb;
    if (lane == 0) {
      const float rescale = expf(before - max);
      shared.max[head] = max;
      shared.sum[head] = shared.sum[head] * rescale + sum;
      shared.rescale[head] = rescale;
    }
  }
}

/// One part of the keys of one query for the heads that share a key-value head: grid [max_splits, kv_heads, count].
template <class Cache>
DEVICE void paged_attention_split(const PagedAttentionArgs &args) {
  SHARED(PagedAttentionShared, shared);
  await_previous();
  const uint32_t split = blockIdx.x, kv_head = blockIdx.y, token = args.tokens[blockIdx.z];
  const uint32_t group = args.num_heads / args.num_kv_heads, outputs = group * args.head_dim;
  const size_t first_q = ((size_t)token * args.num_heads + kv_head * group) * args.head_dim;
  const size_t first_part = ((size_t)blockIdx.z * args.num_heads + kv_head * group) * args.max_splits + split;
  uint32_t first, end;
  visible(args, token, split, first, end);
  if (first >= end) return;

  for (uint32_t i = threadIdx.x; i < outputs; i += THREADS)
    shared.q[i / args.head_dim][i % args.head_dim] = args.q[first_q + i];
  if (threadIdx.x < group) {
    shared.max[threadIdx.x] = -INFINITY;
    shared.sum[threadIdx.x] = 0;
  }
  // A thread has outputs threadIdx.x + i * THREADS.
  float acc[MAX_GROUP * MAX_HEAD_DIM / THREADS] = {};
  // Tiles start at absolute multiples of their length.
  for (uint32_t tile = first / TILE_LEN * TILE_LEN; tile < end; tile += TILE_LEN) {
    const uint32_t from = tile < first ? first : tile;
    const uint32_t to = tile + TILE_LEN < end ? tile + TILE_LEN : end;
    __syncthreads();
    stage<Cache>(args, shared, args.token_seqs[token], kv_head, from, to);
    __syncthreads();
    multiply_keys(args, shared, group, to - from);
    __syncthreads();
    exponentiate(shared, group);
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < MAX_GROUP * MAX_HEAD_DIM / THREADS; i++) {
      const uint32_t output = threadIdx.x + i * THREADS;
      if (output >= outputs) break;
      const uint32_t head = output / args.head_dim, dim = output % args.head_dim;
      float mixed = acc[i] * shared.rescale[head];
      for (uint32_t key = 0; key < to - from; key++)
        mixed += shared.weights[head][key] * bf16_to_f32(shared.v[key][dim]);
      acc[i] = mixed;
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < MAX_GROUP * MAX_HEAD_DIM / THREADS; i++) {
    const uint32_t output = threadIdx.x + i * THREADS;
    if (output >= outputs) break;
    const size_t part = first_part + (size_t)(output / args.head_dim) * args.max_splits;
    args.part_out[part * args.head_dim + output % args.head_dim] = acc[i];
  }
  if (threadIdx.x < group) {
    const size_t part = first_part + (size_t)threadIdx.x * args.max_splits;
    args.part_max[part] = shared.max[threadIdx.x];
    args.part_sum[part] = shared.sum[threadIdx.x];
  }
}

KERNEL void paged_attention_split_bf16(const PagedAttentionArgs args) { paged_attention_split<Bf16Cache>(args); }
KERNEL void paged_attention_split_fp8(const PagedAttentionArgs args) { paged_attention_split<Fp8Cache>(args); }

/// Joins the parts of one query and head with the head's sink, which takes its share and has no value: grid [heads, count],
/// a thread per dimension.
KERNEL void paged_attention_join_f32(const PagedAttentionArgs args) {
  await_previous();
  const uint32_t head = blockIdx.x, token = args.tokens[blockIdx.y];
  const size_t row = (size_t)blockIdx.y * args.num_heads + head;
  const float *maxima = args.part_max + row * args.max_splits, *sums = args.part_sum + row * args.max_splits;
  uint32_t first, end, num_splits = 0;
  float max = args.sinks[head];
  for (; num_splits < args.max_splits; num_splits++) {
    visible(args, token, num_splits, first, end);
    if (first >= end) break;
    max = fmaxf(max, maxima[num_splits]);
  }
  float sum = expf(args.sinks[head] - max);
  for (uint32_t split = 0; split < num_splits; split++) sum += sums[split] * expf(maxima[split] - max);
  for (uint32_t dim = threadIdx.x; dim < args.head_dim; dim += blockDim.x) {
    float mixed = 0;
    for (uint32_t split = 0; split < num_splits; split++)
      mixed += args.part_out[(row * args.max_splits + split) * args.head_dim + dim] * expf(maxima[split] - max);
    args.out[((size_t)token * args.num_heads + head) * args.head_dim + dim] = mixed / sum;
  }
}

TWIN(paged_attention_split_bf16, PagedAttentionArgs)
TWIN(paged_attention_split_fp8, PagedAttentionArgs)
TWIN(paged_attention_join_f32, PagedAttentionArgs)
