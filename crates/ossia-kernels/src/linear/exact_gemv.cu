// Linear layer whose activations are not rounded, for the router: which experts are chosen must not hang on rounding. It
// has few rows, so each token may read them again.

#include "../cuda/kernel.h"

// Weights that a lane takes at a time: 16 bytes.
#define STEP 8

struct ExactGemvArgs {
  const uint16_t *weight;  // bf16 [rows, cols]
  const float *bias;       // [rows], or null
  const float *x;          // [n, cols]
  float *y;                // [n, rows]
  uint32_t rows;
  uint32_t cols;  // a multiple of 8
};

/// Eight products, summed in order.
DEVICE float dot8(const uint4 &w, const float4 &a, const float4 &b) {
  float sum = low_bf16(w.x) * a.x;
  sum += high_bf16(w.x) * a.y;
  sum += low_bf16(w.y) * a.z;
  sum += high_bf16(w.y) * a.w;
  sum += low_bf16(w.z) * b.x;
  sum += high_bf16(w.z) * b.y;
  sum += low_bf16(w.w) * b.z;
  return sum + high_bf16(w.w) * b.w;
}

/// `y = x @ weight^T + bias`. A warp has one row of one token: grid [rows / warps, n].
KERNEL void exact_gemv_f32(const ExactGemvArgs args) {
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
  const uint32_t row = blockIdx.x * (blockDim.x / WARP_LANES) + warp;
  const size_t token = blockIdx.y;
  // The last block's warps past the last row stay for the shuffles and write nothing.
  const uint16_t *weight = args.weight + (size_t)(row < args.rows ? row : args.rows - 1) * args.cols;
  const float *x = args.x + token * args.cols;
  float sum = 0;
  for (uint32_t col = lane * STEP; col < args.cols; col += WARP_LANES * STEP) {
    const float4 *at = reinterpret_cast<const float4 *>(x + col);
    sum += dot8(*reinterpret_cast<const uint4 *>(weight + col), at[0], at[1]);
  }
  sum = warp_sum(sum);
  if (lane == 0 && row < args.rows) args.y[token * args.rows + row] = sum + (args.bias ? args.bias[row] : 0.0f);
}

TWIN(exact_gemv_f32, ExactGemvArgs)
