// Attention over the paged cache for few queries, on the tensor cores: heads of 64, of which up to eight share a key-value head.
// Keys and values go from the cache straight into the registers from which they are multiplied. Each warp has keys of its
// own; paged_attention.cu joins the parts.

#include "paged_attention.h"

#define HEAD_DIM 64
#define WARPS 4
#define THREADS (WARPS * WARP_LANES)
#define MAX_HEADS 8
// Keys of a warp, in groups that lie within one block of the cache.
#define WARP_KEYS (SPLIT_LEN / WARPS)
#define GROUP_KEYS 16
#define GROUPS (WARP_KEYS / GROUP_KEYS)

struct DecodeShared {
  float out[WARPS][MAX_HEADS][HEAD_DIM];
  float max[WARPS][MAX_HEADS];
  float sum[WARPS][MAX_HEADS];
};

/// Where sixteen keys of a sequence begin in the cache, in elements.
DEVICE size_t place_of_keys(const PagedAttentionArgs &args, uint32_t seq, uint32_t kv_head, uint32_t position) {
  const size_t block = args.blocks[args.table_starts[seq] + position / args.block_size - args.first_blocks[seq]];
  return ((block * args.block_size + position % args.block_size) * args.num_kv_heads + kv_head) * HEAD_DIM;
}

/// A head's query rounded to bf16, as the left side of products over its dimensions: a lane has dims t * 8..t * 8 + 8 of each
/// half. Heads that are not there are zero.
DEVICE void load_query(const float *q, bool there, uint4 (&halves)[2]) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const float *at = q + half * 32 + threadIdx.x % 4 * 8;
    halves[half] = {0, 0, 0, 0};
    if (there) halves[half] = {pack_bf16(at[0], at[1]), pack_bf16(at[2], at[3]), pack_bf16(at[4], at[5]), pack_bf16(at[6], at[7])};
  }
}

/// One part of the keys of one query for the heads that share a key-value head: grid [max_splits, kv_heads, count].
template <class Cache>
DEVICE void decode_attention(const PagedAttentionArgs &args) {
  SHARED(DecodeShared, shared);
  await_previous();
  const uint32_t split = blockIdx.x, kv_head = blockIdx.y, token = args.tokens[blockIdx.z];
  const uint32_t warp = threadIdx.x / WARP_LANES, g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4;
  const uint32_t heads = args.num_heads / args.num_kv_heads, seq = args.token_seqs[token];
  uint32_t first, end;
  visible(args, token, split, first, end);
  if (first >= end) return;
  const uint32_t first_key = first / SPLIT_LEN * SPLIT_LEN + warp * WARP_KEYS;

  typename Cache::Eight k[GROUPS][2][2], v[GROUPS][4];
#pragma unroll
  for (int i = 0; i < GROUPS; i++) {
    const uint32_t position = first_key + i * GROUP_KEYS;
    // What is not seen is zero, whatever the cache holds there.
    const bool any = position < end && position + GROUP_KEYS > first;
    const size_t at = any ? place_of_keys(args, seq, kv_head, position) : 0;
    const size_t row = (size_t)args.num_kv_heads * HEAD_DIM;
    const auto seen = [&](uint32_t key) { return any && position + key >= first && position + key < end; };
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int half = 0; half < 2; half++)
        k[i][n][half] = Cache::stream(args.k_cache, at + (n * 8 + g) * row + half * 32 + t * 8, seen(n * 8 + g));
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const uint32_t key = n / 2 * 8 + t * 2 + n % 2;
      v[i][n] = Cache::stream(args.v_cache, at + key * row + g * 8, seen(key));
    }
  }
  uint4 q[2];
  load_query(args.q + ((size_t)token * args.num_heads + kv_head * heads + g) * HEAD_DIM, g < heads, q);

  // Rows of the products are heads; the lower eight are none.
  float s[GROUPS][2][4] = {};
  float max = -INFINITY;
#pragma unroll
  for (int i = 0; i < GROUPS; i++)
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint4 key = Cache::to_bf16(k[i][n][half]);
        mma_bf16_16x8x16(s[i][n], {q[half].x, 0, q[half].y, 0}, {key.x, key.y});
        mma_bf16_16x8x16(s[i][n], {q[half].z, 0, q[half].w, 0}, {key.z, key.w});
      }
#pragma unroll
      for (int j = 0; j < 2; j++) {
        const uint32_t key = first_key + i * GROUP_KEYS + n * 8 + t * 2 + j;
        s[i][n][j] = key >= first && key < end ? s[i][n][j] * args.scale : -INFINITY;
        max = fmaxf(max, s[i][n][j]);
      }
    }
  max = quad_max(max);
  const float base = max == -INFINITY ? 0 : max;  // nothing seen
  float sum = 0;
  float out[HEAD_DIM / 8][4] = {};
#pragma unroll
  for (int i = 0; i < GROUPS; i++) {
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int j = 0; j < 2; j++) sum += s[i][n][j] = expf(s[i][n][j] - base);
    const uint32_t weights[4] = {pack_bf16(s[i][0][0], s[i][0][1]), 0, pack_bf16(s[i][1][0], s[i][1][1]), 0};
    const uint4 values[4] = {Cache::to_bf16(v[i][0]), Cache::to_bf16(v[i][1]), Cache::to_bf16(v[i][2]), Cache::to_bf16(v[i][3])};
    // Column g of product j is dimension g * 8 + j, so that a lane's eight dimensions are neighbours.
#pragma unroll
    for (int j = 0; j < HEAD_DIM / 8; j++)
      mma_bf16_16x8x16(out[j], weights, {bf16_pair(values[0], values[1], j), bf16_pair(values[2], values[3], j)});
  }
  sum = quad_sum(sum);
  if (t == 0) shared.max[warp][g] = max, shared.sum[warp][g] = sum;
#pragma unroll
  for (int j = 0; j < HEAD_DIM / 8; j++)
#pragma unroll
    for (int i = 0; i < 2; i++) shared.out[warp][g][(t * 2 + i) * 8 + j] = out[j][i];
  __syncthreads();

  const size_t first_part = ((size_t)blockIdx.z * args.num_heads + kv_head * heads) * args.max_splits + split;
  for (uint32_t i = threadIdx.x; i < heads * HEAD_DIM; i += THREADS) {
    const uint32_t head = i / HEAD_DIM, dim = i % HEAD_DIM;
    float all_max = -INFINITY, all_sum = 0, mixed = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) all_max = fmaxf(all_max, shared.max[w][head]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float share = expf(shared.max[w][head] - all_max);
      all_sum += shared.sum[w][head] * share;
      mixed += shared.out[w][head][dim] * share;
    }
    const size_t part = first_part + (size_t)head * args.max_splits;
    args.part_out[part * HEAD_DIM + dim] = mixed;
    if (dim == 0) args.part_max[part] = all_max, args.part_sum[part] = all_sum;
  }
}

KERNEL_OF(THREADS, 2) void decode_attention_bf16(const PagedAttentionArgs args) { decode_attention<Bf16Cache>(args); }
KERNEL_OF(THREADS, 2) void decode_attention_fp8(const PagedAttentionArgs args) { decode_attention<Fp8Cache>(args); }

TWIN(decode_attention_bf16, PagedAttentionArgs)
TWIN(decode_attention_fp8, PagedAttentionArgs)
