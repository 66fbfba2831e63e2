// Second projection of the visited experts, for few tokens: each visited expert is read once.

#include "mxfp4_gemv.h"

struct DownArgs {
  Mxfp4Weights weights;     // [num_experts, hidden, inter]
  const float *bias;        // [num_experts, hidden]
  const float *activated;   // [n, top_k, inter]
  const uint32_t *experts;  // [n, top_k]
  float *outputs;           // [n, top_k, hidden]
  uint32_t num_slots;       // n * top_k
  uint32_t hidden;  // a multiple of 32
  uint32_t inter;   // a multiple of 32
};

/// Each slot's output. Grid [rows / (warps * ROWS), num_slots].
KERNEL void mxfp4_down_f32(const DownArgs args) {
  SHARED(Mxfp4Shared, shared);
  const Visit visit = visitors(args.experts, args.num_slots, blockIdx.y);
  if (visit.num_slots == 0) return;
  const size_t expert = args.experts[blockIdx.y];
  const uint32_t first_row = (blockIdx.x * (blockDim.x / WARP_LANES) + threadIdx.x / WARP_LANES) * ROWS;
  const float *x[TOKENS];
#pragma unroll
  for (int t = 0; t < TOKENS; t++) x[t] = args.activated + (size_t)visit.slots[t] * args.inter;

  float acc[ROWS][TOKENS];
  multiply(shared, args.weights, x, expert, first_row, args.hidden, args.inter, acc);
  if (threadIdx.x % WARP_LANES != 0) return;
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; t++) {
      const uint32_t row = first_row + r;
      if (row < args.hidden && t < visit.num_slots)
        args.outputs[(size_t)visit.slots[t] * args.hidden + row] = acc[r][t] + args.bias[expert * args.hidden + row];
    }
}

TWIN(mxfp4_down_f32, DownArgs)
