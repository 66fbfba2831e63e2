// Products of up to 64 tokens on the tensor cores, at the speed of the memory: each weight is read once, straight into the
// registers from which it is multiplied. Up to three layers that share their input are one launch. What a weight is says a type.
#pragma once

#include "../cuda/kernel.h"

// Warps of a block share a tile of rows and take its columns in turns, STEP at a time: a lane has eight of two rows.
#define WARPS 8
#define THREADS (WARPS * WARP_LANES)
#define STEP 32
#define MAX_LAYERS 3

struct Layer {
  const void *weight;             // [rows, cols]
  const uint16_t *double_scales;  // f16 [rows, cols / 32]: twice the scales of weights of 8 bits
  const float *bias;              // [rows], or null
  float *y;                       // [num_tokens, rows]
  uint64_t rows;                  // 0 for a layer that is not there
};

struct MmaArgs {
  Layer layers[MAX_LAYERS];
  const void *x;  // [num_tokens, cols]: f32 for up to eight tokens, else bf16
  uint32_t cols;  // a multiple of 8
  uint32_t num_tokens;
};

/// Eight of a token's activations, as they are stored and as pairs of bf16.
struct F32x8 {
  uint4 low, high;
};
DEVICE F32x8 load_x(const float *x) { return {load_16(x), load_16(x + 4)}; }
DEVICE uint4 load_x(const uint16_t *x) { return load_16(x); }
DEVICE uint4 bf16_pairs(const F32x8 &x) {
  return {pack_bf16(float_of(x.low.x), float_of(x.low.y)), pack_bf16(float_of(x.low.z), float_of(x.low.w)),
          pack_bf16(float_of(x.high.x), float_of(x.high.y)), pack_bf16(float_of(x.high.z), float_of(x.high.w))};
}
DEVICE uint4 bf16_pairs(const uint4 &x) { return x; }

template <int TOKEN_TILES>
struct MmaShared {
  float parts[WARPS][TOKEN_TILES * 8][16];
};

/// A block's tile: ROW_TILES times sixteen rows of one of the layers, with every token. The weights of AHEAD steps are under way
/// while others are multiplied.
template <class Weights, int TOKEN_TILES, int ROW_TILES, int AHEAD, typename X>
DEVICE void multiply(const MmaArgs &args, MmaShared<TOKEN_TILES> &shared) {
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES, g = lane / 4, t = lane % 4;
  Layer layer = {};
  uint32_t tile = blockIdx.x;
  bool found = false;
#pragma unroll
  for (int i = 0; i < MAX_LAYERS; i++) {
    const uint32_t tiles = (args.layers[i].rows + ROW_TILES * 16 - 1) / (ROW_TILES * 16);
    if (!found && tile < tiles) layer = args.layers[i], found = true;
    if (!found) tile -= tiles;
  }
  const uint32_t first_row = tile * ROW_TILES * 16, num_rows = layer.rows;
  // Rows past the end read the last row and are not written.
  typename Weights::Row rows[ROW_TILES][2];
#pragma unroll
  for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint32_t row = first_row + m * 16 + half * 8 + g;
      rows[m][half] = Weights::of_row(layer, row < num_rows ? row : num_rows - 1, args.cols);
    }

  // The weights of the first steps are on their way before the activations are there.
  const uint32_t num_steps = (args.cols + STEP - 1) / STEP;
  typename Weights::Eight w[AHEAD][ROW_TILES][2];
  const auto load_w = [&](uint32_t step, typename Weights::Eight(&w)[ROW_TILES][2]) {
    const uint32_t col = step * STEP + t * 8;
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
      for (int half = 0; half < 2; half++) w[m][half] = Weights::load(rows[m][half], col, args.cols);
  };
#pragma unroll
  for (int i = 0; i < AHEAD; i++) load_w(warp + i * WARPS, w[i]);
  await_previous();
  // Tokens past the end read the last token and are not written.
  const X *x_rows[TOKEN_TILES];
#pragma unroll
  for (int n = 0; n < TOKEN_TILES; n++) {
    const uint32_t token = n * 8 + g < args.num_tokens ? n * 8 + g : args.num_tokens - 1;
    x_rows[n] = static_cast<const X *>(args.x) + (size_t)token * args.cols;
  }

  float acc[ROW_TILES][TOKEN_TILES][4] = {};
  for (uint32_t first = warp; first < num_steps; first += WARPS * AHEAD) {
    decltype(load_x((const X *)nullptr)) x[AHEAD][TOKEN_TILES];
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      // Past the last column, the last ones again: the weights are 0 there.
      const uint32_t wanted = (first + i * WARPS) * STEP + t * 8, col = wanted < args.cols ? wanted : args.cols - 8;
#pragma unroll
      for (int n = 0; n < TOKEN_TILES; n++) x[i][n] = load_x(x_rows[n] + col);
    }
    // Which of its eight columns a lane's pair stands for is the same on both sides, and that is all that counts.
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      uint4 wide[ROW_TILES][2];
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) wide[m][half] = Weights::to_bf16(w[i][m][half]);
#pragma unroll
      for (int n = 0; n < TOKEN_TILES; n++) {
        const uint4 pairs = bf16_pairs(x[i][n]);
#pragma unroll
        for (int m = 0; m < ROW_TILES; m++) {
          const uint4 &upper = wide[m][0], &lower = wide[m][1];
          const auto add_products = [&](float(&sum)[4]) {
            mma_bf16_16x8x16(sum, {upper.x, lower.x, upper.y, lower.y}, {pairs.x, pairs.y});
            mma_bf16_16x8x16(sum, {upper.z, lower.z, upper.w, lower.w}, {pairs.z, pairs.w});
          };
          Weights::add(acc[m][n], w[i][m], add_products);
        }
      }
      load_w(first + (i + AHEAD) * WARPS, w[i]);
    }
  }

#pragma unroll
  for (int m = 0; m < ROW_TILES; m++) {
    __syncthreads();
#pragma unroll
    for (int n = 0; n < TOKEN_TILES; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) shared.parts[warp][n * 8 + t * 2 + i % 2][i / 2 * 8 + g] = acc[m][n][i];
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < args.num_tokens * 16; i += THREADS) {
      const uint32_t token = i / 16, row = first_row + m * 16 + i % 16;
      if (row >= num_rows) continue;
      float sum = layer.bias ? layer.bias[row] : 0.0f;
#pragma unroll
      for (int part = 0; part < WARPS; part++) sum += shared.parts[part][token][i % 16];
      layer.y[(size_t)token * num_rows + row] = sum;
    }
  }
}
