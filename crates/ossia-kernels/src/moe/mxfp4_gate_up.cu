// First projection of the visited experts with its activation, for few tokens: each visited expert is read once.

#include "mxfp4_gemv.h"

struct GateUpArgs {
  Mxfp4Weights weights;     // [num_experts, 2 * inter, hidden], rows interleaving gate and up
  const float *bias;        // [num_experts, 2 * inter]
  const float *x;           // [n, hidden]
  const uint32_t *experts;  // [n, top_k]
  float *activated;         // [n, top_k, inter]
  uint32_t num_slots;       // n * top_k
  uint32_t top_k;
  uint32_t hidden;  // a multiple of 32
  uint32_t inter;   // a multiple of 32
  float limit;
};

/// Grid [rows / (warps * ROWS), num_slots].
KERNEL void mxfp4_gate_up_f32(const GateUpArgs args) {
  SHARED(Mxfp4Shared, shared);
  const Visit visit = visitors(args.experts, args.num_slots, blockIdx.y);
  if (visit.num_slots == 0) return;
  const size_t expert = args.experts[blockIdx.y];
  const uint32_t num_rows = 2 * args.inter;
  const uint32_t first_row = (blockIdx.x * (blockDim.x / WARP_LANES) + threadIdx.x / WARP_LANES) * ROWS;
  const float *x[TOKENS];
#pragma unroll
  for (int t = 0; t < TOKENS; t++) x[t] = args.x + (size_t)(visit.slots[t] / args.top_k) * args.hidden;

  float acc[ROWS][TOKENS];
  multiply(shared, args.weights, x, expert, first_row, num_rows, args.hidden, acc);
  if (threadIdx.x % WARP_LANES != 0) return;
#pragma unroll
  for (int r = 0; r < ROWS; r += 2)
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; t++) {
      const uint32_t row = first_row + r;
      if (row >= num_rows || t >= visit.num_slots) continue;
      const float *bias = args.bias + expert * num_rows + row;
      args.activated[(size_t)visit.slots[t] * args.inter + row / 2] =
          swiglu(acc[r][t] + bias[0], acc[r + 1][t] + bias[1], args.limit);
    }
}

TWIN(mxfp4_gate_up_f32, GateUpArgs)
