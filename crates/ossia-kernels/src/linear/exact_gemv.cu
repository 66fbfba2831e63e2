// Linear layer whose activations are not rounded, for the router: which experts are chosen must not hang on rounding. It
// has few rows, so each token may read them again.

#include "../cuda/kernel.h"

// Weights that a lane takes at a time: 16 bytes.
#define STEP 8
#define WARPS 4

struct ExactGemvArgs {
  const uint16_t *weight;  // bf16 [rows, cols]
  const float *bias;       // [rows], or null
  const float *x;          // [n, cols]
  float *y;                // [n, rows]
  uint32_t rows;
  uint32_t cols;  // a multiple of 8
  uint32_t num_tokens;
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

struct ExactGemvShared {
  float sums[WARPS];
};

/// `y = x @ weight^T + bias`. A block has one row of one token, so that few rows are many blocks: grid [rows, n].
KERNEL void exact_gemv_f32(const ExactGemvArgs args) {
  SHARED(ExactGemvShared, shared);
  await_previous();
  const uint32_t row = blockIdx.x;
  const size_t token = blockIdx.y;
  const uint16_t *weight = args.weight + (size_t)row * args.cols;
  const float *x = args.x + token * args.cols;
  float sum = 0;
  for (uint32_t col = threadIdx.x * STEP; col < args.cols; col += WARPS * WARP_LANES * STEP) {
    const float4 *at = reinterpret_cast<const float4 *>(x + col);
    sum += dot8(*reinterpret_cast<const uint4 *>(weight + col), at[0], at[1]);
  }
  sum = warp_sum(sum);
  if (threadIdx.x % WARP_LANES == 0) shared.sums[threadIdx.x / WARP_LANES] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  sum = args.bias ? args.bias[row] : 0.0f;
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) sum += shared.sums[warp];
  args.y[token * args.rows + row] = sum;
}

// Rows and tokens of a warp where there are many tokens, and warps of a block.
#define ROWS 4
#define TOKENS 4
#define MANY_WARPS 8

/// The same of many tokens, with the same bits: a warp has ROWS rows of TOKENS tokens, whose sums it makes as the WARPS warps of
/// the other kernel make theirs. Grid [rows / (MANY_WARPS * ROWS), n / TOKENS].
KERNEL_OF(MANY_WARPS *WARP_LANES, 2) void exact_gemv_many_f32(const ExactGemvArgs args) {
  await_previous();
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
  const uint32_t first_row = (blockIdx.x * MANY_WARPS + warp) * ROWS, first_token = blockIdx.y * TOKENS;
  if (first_row >= args.rows) return;
  // Rows and tokens past the end repeat the last ones and are not written.
  const uint16_t *weights[ROWS];
  const float *x[TOKENS];
#pragma unroll
  for (uint32_t r = 0; r < ROWS; r++)
    weights[r] = args.weight + (size_t)(first_row + r < args.rows ? first_row + r : args.rows - 1) * args.cols;
#pragma unroll
  for (uint32_t t = 0; t < TOKENS; t++)
    x[t] = args.x + (size_t)(first_token + t < args.num_tokens ? first_token + t : args.num_tokens - 1) * args.cols;
  float sums[WARPS][ROWS][TOKENS] = {};
  for (uint32_t first = 0; first < args.cols; first += WARPS * WARP_LANES * STEP)
#pragma unroll
    for (int part = 0; part < WARPS; part++) {
      const uint32_t col = first + (part * WARP_LANES + lane) * STEP;
      if (col >= args.cols) continue;
      uint4 w[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; r++) w[r] = *reinterpret_cast<const uint4 *>(weights[r] + col);
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        const float4 *at = reinterpret_cast<const float4 *>(x[t] + col);
        const float4 a = at[0], b = at[1];
#pragma unroll
        for (int r = 0; r < ROWS; r++) sums[part][r][t] += dot8(w[r], a, b);
      }
    }
#pragma unroll
  for (uint32_t r = 0; r < ROWS; r++)
#pragma unroll
    for (uint32_t t = 0; t < TOKENS; t++) {
      float sum = args.bias && first_row + r < args.rows ? args.bias[first_row + r] : 0.0f;
#pragma unroll
      for (int part = 0; part < WARPS; part++) sum += warp_sum(sums[part][r][t]);
      if (lane == 0 && first_row + r < args.rows && first_token + t < args.num_tokens)
        args.y[(size_t)(first_token + t) * args.rows + first_row + r] = sum;
    }
}

TWIN(exact_gemv_f32, ExactGemvArgs)
TWIN(exact_gemv_many_f32, ExactGemvArgs)
