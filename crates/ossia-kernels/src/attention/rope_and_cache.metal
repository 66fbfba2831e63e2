// Rotates queries and keys by their positions and writes keys and values into the paged cache, one threadgroup per token.

#include "../metal/prelude.h"

#define ROPE_THREADS 256

struct RopeAndCacheArgs {
  uint num_heads;
  uint num_kv_heads;
  uint head_dim;  // even
};

/// Dimension `i` turns with dimension `i + head_dim / 2`. q `[n, heads, head_dim]`, k and v `[n, kv_heads, head_dim]`, cos
/// and sin `[n, head_dim / 2]`, `slots[i] = block * block_size + offset`; caches bf16 `[slots, kv_heads, head_dim]`.
kernel void rope_and_cache_f32_bf16(device const float *q, device const float *k, device const float *v,
                                    device const float *cosines, device const float *sines, device const uint *slots,
                                    device float *rotated, device ushort *k_cache, device ushort *v_cache,
                                    constant RopeAndCacheArgs &args, uint3 group [[threadgroup_position_in_grid]],
                                    uint index [[thread_index_in_threadgroup]]) {
  const uint token = group.x, pairs = args.head_dim / 2;
  device const float *c = cosines + ulong(token) * pairs;
  device const float *s = sines + ulong(token) * pairs;
  const ulong slot = slots[token];

  for (uint i = index; i < args.num_heads * pairs; i += ROPE_THREADS) {
    const uint dim = i % pairs;
    const ulong at = (ulong(token) * args.num_heads + i / pairs) * args.head_dim + dim;
    const float a = q[at], b = q[at + pairs];
    rotated[at] = a * c[dim] - b * s[dim];
    rotated[at + pairs] = b * c[dim] + a * s[dim];
  }
  for (uint i = index; i < args.num_kv_heads * pairs; i += ROPE_THREADS) {
    const uint dim = i % pairs, head = i / pairs;
    const ulong from = (ulong(token) * args.num_kv_heads + head) * args.head_dim + dim;
    const ulong to = (slot * args.num_kv_heads + head) * args.head_dim + dim;
    const float a = k[from], b = k[from + pairs];
    k_cache[to] = f32_to_bf16(a * c[dim] - b * s[dim]);
    k_cache[to + pairs] = f32_to_bf16(b * c[dim] + a * s[dim]);
    v_cache[to] = f32_to_bf16(v[from]);
    v_cache[to + pairs] = f32_to_bf16(v[from + pairs]);
  }
}

TWIN(rope_and_cache_f32_bf16)
