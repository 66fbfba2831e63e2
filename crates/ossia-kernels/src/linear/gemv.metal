// Linear layer of few tokens: each weight is read once per four tokens, activations are not rounded.

#include "../metal/prelude.h"

// Tokens of a threadgroup, rows of a simdgroup, simdgroups of a threadgroup.
#define GEMV_TOKENS 4
#define GEMV_ROWS 4
#define GEMV_SIMDGROUPS 8
// Weights that a lane takes at a time: 16 bytes.
#define GEMV_STEP 8

struct GemvArgs {
  uint rows;
  uint cols;  // a multiple of 8
  uint num_tokens;
  uint has_bias;
};

/// Eight products.
inline float gemv_dot(uint4 w, float4 a, float4 b) {
  const float4 low = float4(low_bf16(w.x), high_bf16(w.x), low_bf16(w.y), high_bf16(w.y));
  const float4 high = float4(low_bf16(w.z), high_bf16(w.z), low_bf16(w.w), high_bf16(w.w));
  return dot(low, a) + dot(high, b);
}

/// `y = x @ weight^T + bias`: bf16 weight `[rows, cols]`, x `[n, cols]`, y `[n, rows]`. Grid [rows / (simdgroups * ROWS),
/// n / TOKENS].
kernel void gemv_bf16_f32(device const ushort *weight, device const float *bias, device const float *x, device float *y,
                          constant GemvArgs &args, uint3 group [[threadgroup_position_in_grid]],
                          uint index [[thread_index_in_threadgroup]]) {
  const uint lane = index % SIMD_LANES;
  const uint first_row = (group.x * GEMV_SIMDGROUPS + index / SIMD_LANES) * GEMV_ROWS;
  const uint first_token = group.y * GEMV_TOKENS;

  float acc[GEMV_ROWS][GEMV_TOKENS] = {};
  for (uint col = lane * GEMV_STEP; col < args.cols; col += SIMD_LANES * GEMV_STEP) {
    uint4 w[GEMV_ROWS];
    for (uint r = 0; r < GEMV_ROWS; r++) {
      // Rows past the end read the last row and are not written; so do tokens.
      const uint row = first_row + r < args.rows ? first_row + r : args.rows - 1;
      w[r] = *(device const uint4 *)(weight + ulong(row) * args.cols + col);
    }
    for (uint t = 0; t < GEMV_TOKENS; t++) {
      const uint token = first_token + t < args.num_tokens ? first_token + t : args.num_tokens - 1;
      device const float4 *at = (device const float4 *)(x + ulong(token) * args.cols + col);
      const float4 a = at[0], b = at[1];
      for (uint r = 0; r < GEMV_ROWS; r++) acc[r][t] += gemv_dot(w[r], a, b);
    }
  }
  for (uint r = 0; r < GEMV_ROWS; r++)
    for (uint t = 0; t < GEMV_TOKENS; t++) {
      const float sum = simd_sum(acc[r][t]);
      const uint row = first_row + r, token = first_token + t;
      if (lane == 0 && row < args.rows && token < args.num_tokens)
        y[ulong(token) * args.rows + row] = sum + (args.has_bias ? bias[row] : 0.0f);
    }
}

TWIN(gemv_bf16_f32)
