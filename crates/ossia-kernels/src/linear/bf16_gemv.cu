// Linear layer of up to four tokens: reads each weight once, at the speed of the memory.

#include "../cuda/kernel.h"

// Tokens of one launch, and rows of a warp.
#define TOKENS 4
#define ROWS 4
// Weights that a lane takes at a time: 16 bytes.
#define STEP 8
// Columns staged in shared memory at a time.
#define STAGE_COLS 4096

struct Bf16GemvArgs {
  const uint16_t *weight;  // bf16 [rows, cols]
  const float *bias;       // [rows], or null
  const float *x;          // [num_tokens, cols]
  float *y;                // [num_tokens, rows]
  uint32_t rows;
  uint32_t cols;        // a multiple of 8
  uint32_t num_tokens;  // at most TOKENS
};

struct Bf16GemvShared {
  alignas(16) uint16_t x[TOKENS][STAGE_COLS];
};

/// Rounds columns `first..first + len` of all tokens to bf16.
DEVICE void stage_x(const Bf16GemvArgs &args, Bf16GemvShared &shared, uint32_t first, uint32_t len) {
  for (uint32_t token = 0; token < TOKENS; token++)
    for (uint32_t i = threadIdx.x; i < len; i += blockDim.x)
      shared.x[token][i] = token < args.num_tokens ? f32_to_bf16(args.x[(size_t)token * args.cols + first + i]) : 0;
}

/// `acc[row] += w * x` for eight weights of each of a warp's rows and one token.
DEVICE void multiply_add(float &acc, const uint4 &w, const uint4 &x) {
  acc += low_bf16(w.x) * low_bf16(x.x) + high_bf16(w.x) * high_bf16(x.x);
  acc += low_bf16(w.y) * low_bf16(x.y) + high_bf16(w.y) * high_bf16(x.y);
  acc += low_bf16(w.z) * low_bf16(x.z) + high_bf16(w.z) * high_bf16(x.z);
  acc += low_bf16(w.w) * low_bf16(x.w) + high_bf16(w.w) * high_bf16(x.w);
}

/// `y = x @ weight^T + bias`, x rounded to bf16. A warp has ROWS rows; grid.x covers the rows.
KERNEL void bf16_gemv_f32(const Bf16GemvArgs args) {
  SHARED(Bf16GemvShared, shared);
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
  const uint32_t first_row = (blockIdx.x * (blockDim.x / WARP_LANES) + warp) * ROWS;

  float acc[ROWS][TOKENS] = {};
  for (uint32_t first = 0; first < args.cols; first += STAGE_COLS) {
    const uint32_t len = args.cols - first < STAGE_COLS ? args.cols - first : STAGE_COLS;
    __syncthreads();
    stage_x(args, shared, first, len);
    __syncthreads();
    for (uint32_t col = lane * STEP; col < len; col += WARP_LANES * STEP) {
      uint4 w[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        // Rows past the end read the last row and are not written.
        const uint32_t row = first_row + r < args.rows ? first_row + r : args.rows - 1;
        w[r] = *reinterpret_cast<const uint4 *>(args.weight + (size_t)row * args.cols + first + col);
      }
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        const uint4 x = *reinterpret_cast<const uint4 *>(&shared.x[t][col]);
#pragma unroll
        for (int r = 0; r < ROWS; r++) multiply_add(acc[r][t], w[r], x);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
      const float sum = warp_sum(acc[r][t]);
      const uint32_t row = first_row + r;
      if (lane == 0 && row < args.rows && (uint32_t)t < args.num_tokens)
        args.y[(size_t)t * args.rows + row] = sum + (args.bias ? args.bias[row] : 0.0f);
    }
}

TWIN(bf16_gemv_f32, Bf16GemvArgs)
