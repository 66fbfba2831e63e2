// The weighted sum of each token's experts.

#include "../cuda/kernel.h"

struct CombineArgs {
  const float *outputs;  // [n, top_k, hidden]
  const float *shares;   // [n, top_k]: weight of each expert
  float *y;              // [n, hidden]
  uint32_t top_k;
  uint32_t hidden;
};

/// In the token's own order of experts, whoever shares its batch. Grid [hidden / threads, n].
KERNEL void moe_combine_f32(const CombineArgs args) {
  await_previous();
  const uint32_t col = blockIdx.x * blockDim.x + threadIdx.x;
  const size_t token = blockIdx.y;
  if (col >= args.hidden) return;
  float sum = 0;
  for (uint32_t k = 0; k < args.top_k; k++) {
    const size_t slot = token * args.top_k + k;
    sum += args.shares[slot] * args.outputs[slot * args.hidden + col];
  }
  args.y[token * args.hidden + col] = sum;
}

TWIN(moe_combine_f32, CombineArgs)
