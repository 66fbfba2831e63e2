// Rotates queries and keys by their positions and writes keys and values into the paged cache.

#include "cache.h"

struct RopeAndCacheArgs {
  const float *q;         // [n, heads, head_dim]
  const float *k;         // [n, kv_heads, head_dim]
  const float *v;         // [n, kv_heads, head_dim]
  const float *cos;       // [n, head_dim / 2]
  const float *sin;       // [n, head_dim / 2]
  const uint32_t *slots;  // [n]: block * block_size + offset
  float *q_out;           // [n, heads, head_dim]
  void *k_cache;          // [slots of the cache, kv_heads, head_dim]
  void *v_cache;          // the same
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;  // even
};

/// Dimension `i` turns with dimension `i + head_dim / 2`. Grid [n, parts of a token].
template <class Cache>
DEVICE void rope_and_cache(const RopeAndCacheArgs &args) {
  await_previous();
  const uint32_t half = args.head_dim / 2;
  const size_t token = blockIdx.x;
  const float *cos = args.cos + token * half, *sin = args.sin + token * half;
  const size_t kv_width = (size_t)args.num_kv_heads * args.head_dim;
  const size_t slot = args.slots[token];
  auto *const k_cache = static_cast<typename Cache::Element *>(args.k_cache);
  auto *const v_cache = static_cast<typename Cache::Element *>(args.v_cache);

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
    k_cache[to] = Cache::round(a * cos[dim] - b * sin[dim]);
    k_cache[to + half] = Cache::round(b * cos[dim] + a * sin[dim]);
    v_cache[to] = Cache::round(args.v[from]);
    v_cache[to + half] = Cache::round(args.v[from + half]);
  }
}

KERNEL void rope_and_cache_bf16(const RopeAndCacheArgs args) { rope_and_cache<Bf16Cache>(args); }
KERNEL void rope_and_cache_fp8(const RopeAndCacheArgs args) { rope_and_cache<Fp8Cache>(args); }

TWIN(rope_and_cache_bf16, RopeAndCacheArgs)
TWIN(rope_and_cache_fp8, RopeAndCacheArgs)
