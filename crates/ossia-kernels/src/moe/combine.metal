// The weighted sum of each token's experts.

#include "../metal/prelude.h"

#define COMBINE_THREADS 256

struct CombineArgs {
  uint top_k;
  uint hidden;
};

/// outputs `[n, top_k, hidden]` and shares `[n, top_k]` to y `[n, hidden]`, in the token's own order of experts, whoever
/// shares its batch. Grid [hidden / COMBINE_THREADS, n].
kernel void moe_combine_f32(device const float *outputs, device const float *shares, device float *y,
                            constant CombineArgs &args, uint3 group [[threadgroup_position_in_grid]],
                            uint index [[thread_index_in_threadgroup]]) {
  const uint col = group.x * COMBINE_THREADS + index, token = group.y;
  if (col >= args.hidden) return;
  float sum = 0;
  for (uint k = 0; k < args.top_k; k++) {
    const ulong slot = ulong(token) * args.top_k + k;
    sum += shares[slot] * outputs[slot * args.hidden + col];
  }
  y[ulong(token) * args.hidden + col] = sum;
}

TWIN(moe_combine_f32)
