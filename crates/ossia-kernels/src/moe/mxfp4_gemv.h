// What the two projections of few-token experts share: who visits an expert, and the product of its rows with them.
#pragma once

#include "mxfp4.h"

// Tokens of one launch, and rows of a warp.
#define TOKENS 4
#define ROWS 4
// Values that a lane takes at a time: 8 bytes, half a block.
#define STEP 16
// Staged elements per STEP: a pad of 16 bytes keeps neighbours out of each other's memory banks.
#define STAGED_STEP 24
// Columns staged in shared memory at a time.
#define STAGE_COLS 2048

struct Mxfp4Shared {
  alignas(16) uint16_t x[TOKENS][STAGE_COLS / STEP * STAGED_STEP];
};

/// The slots that visit an expert, up to TOKENS at a time.
struct Visit {
  uint32_t num_slots;
  uint32_t slots[TOKENS];
};

/// The visitors of the expert of `slot` if `slot` is the first of them or a multiple of TOKENS after it: each group of
/// visitors has one block of threads. The others have none.
DEVICE Visit visitors(const uint32_t *experts, uint32_t num_slots, uint32_t slot) {
  const uint32_t expert = experts[slot];
  uint32_t before = 0;
  for (uint32_t other = 0; other < slot; other++) before += experts[other] == expert;
  Visit visit = {};
  if (before % TOKENS != 0) return visit;
#pragma unroll
  for (uint32_t i = 0; i < TOKENS; i++) visit.slots[i] = slot;
  for (uint32_t other = slot; other < num_slots && visit.num_slots < TOKENS; other++) {
    if (experts[other] != expert) continue;
#pragma unroll
    for (uint32_t i = 0; i < TOKENS; i++)
      if (i == visit.num_slots) visit.slots[i] = other;
    visit.num_slots++;
  }
  return visit;
}

/// The product of eight values of a word, low nibble first, with eight bf16 numbers.
DEVICE float dot8(uint32_t codes, const uint4 &x) {
  return e2m1(codes) * low_bf16(x.x) + e2m1(codes >> 4) * high_bf16(x.x) + e2m1(codes >> 8) * low_bf16(x.y) +
         e2m1(codes >> 12) * high_bf16(x.y) + e2m1(codes >> 16) * low_bf16(x.z) + e2m1(codes >> 20) * high_bf16(x.z) +
         e2m1(codes >> 24) * low_bf16(x.w) + e2m1(codes >> 28) * high_bf16(x.w);
}

/// Rounds columns `first..first + len` of the visitors' rows of `x` to bf16.
DEVICE void stage_x(Mxfp4Shared &shared, const float *const (&rows)[TOKENS], uint32_t first, uint32_t len) {
#pragma unroll
  for (uint32_t t = 0; t < TOKENS; t++)
    for (uint32_t i = threadIdx.x; i < len; i += blockDim.x)
      shared.x[t][i / STEP * STAGED_STEP + i % STEP] = f32_to_bf16(rows[t][first + i]);
}

/// `acc[r][t] = weights[expert][first_row + r] . rows[t]`, summed over the warp, in every lane. All threads of the block
/// take part. Rows past the end read the last row.
DEVICE void multiply(Mxfp4Shared &shared, const Mxfp4Weights &weights, const float *const (&x)[TOKENS],
                     size_t expert, uint32_t first_row, uint32_t num_rows, uint32_t cols, float (&acc)[ROWS][TOKENS]) {
  const uint32_t lane = threadIdx.x % WARP_LANES;
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int t = 0; t < TOKENS; t++) acc[r][t] = 0;
  for (uint32_t first = 0; first < cols; first += STAGE_COLS) {
    const uint32_t len = cols - first < STAGE_COLS ? cols - first : STAGE_COLS;
    __syncthreads();
    stage_x(shared, x, first, len);
    __syncthreads();
    for (uint32_t col = lane * STEP; col < len; col += WARP_LANES * STEP) {
      uint2 codes[ROWS];
      float scale[ROWS];
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const size_t row = expert * num_rows + (first_row + r < num_rows ? first_row + r : num_rows - 1);
        codes[r] = *reinterpret_cast<const uint2 *>(weights.blocks + (row * cols + first + col) / 2);
        scale[r] = e8m0(weights.scales[(row * cols + first + col) / 32]);
      }
#pragma unroll
      for (int t = 0; t < TOKENS; t++) {
        const uint16_t *staged = &shared.x[t][col / STEP * STAGED_STEP];
        const uint4 a = reinterpret_cast<const uint4 *>(staged)[0], b = reinterpret_cast<const uint4 *>(staged)[1];
#pragma unroll
        for (int r = 0; r < ROWS; r++) acc[r][t] += (dot8(codes[r].x, a) + dot8(codes[r].y, b)) * scale[r];
      }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++)
#pragma unroll
    for (int t = 0; t < TOKENS; t++) acc[r][t] = warp_sum(acc[r][t]);
}
