// Rotates queries and keys by their positions and writes keys and values into the paged cache.

#include "../cuda/kernel.h"

struct RopeAndCacheArgs {
  const float *q;         // [n, heads, head_dim]
  const float *k;         // [n, kv_heads, head_dim]
  const float *v;         // [n, kv_heads, head_dim]
  const float *cos;       // [n, head_dim / 2]
  const float *sin;       // [n, head_dim / 2]
  const uint32_t *slots;  // [n]: block * block_size + offset
  float *q_out;           // [n, heads, head_dim]
  uint16_t *k_cache;      // bf16 [slots of the cache, kv_heads, head_dim]
  uint16_t *v_cache;      // bf16, the same
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;  // even
};

/// Dimension `i` turns with dimension `i + head_dim / 2`. Grid [n, parts of a token].
KERNEL void rope_and_cache_f32_bf16(const RopeAndCacheArgs args) {
  await_previous();
  const uint32_t half = args.head_dim / 2;
  const size_t token = blockIdx.x;
  const float *cos = args.cos + token * half, *sin = args.sin + token * half;
  const size_t kv_width = (size_t)args.num_kv_heads * args.head_dim;
  const size_t slot = args.slots[token];

  const uint32_t first = blockIdx.y * blockDim.x + threadIdx.x, step = gridDim.y * blockDim.x;
  for (uint32_t i = first; i < args.num_heads * half; i += step) {
    const uint32_t dim = i % half;
    const size_t at = (token * args.num_heads + i / half) * args.head_dim + dim;
    const float a = args.q[at], b = args.q[at + half];
    args.q_out[at] = a * cos[dim] - b * sin[dim];
    args.q_out[at + half] = b * cos[dim] + a * sin[dim];
  }
  for (uint32_t i = first; i < args.num_kv_heads * half; i += step) {
    const uint32_t dim = i % half, head = i / half * args.head_dim;
    const size_t from = token * kv_width + head + dim, to = slot * kv_width + head + dim;
    const float a = args.k[from], b = args.k[from + half];
    args.k_cache[to] = f32_to_bf16(a * cos[dim] - b * sin[dim]);
    args.k_cache[to + half] = f32_to_bf16(b * cos[dim] + a * sin[dim]);
    args.v_cache[to] = f32_to_bf16(args.v[from]);
    args.v_cache[to + half] = f32_to_bf16(args.v[from + half]);
  }
}

TWIN(rope_and_cache_f32_bf16, RopeAndCacheArgs)
