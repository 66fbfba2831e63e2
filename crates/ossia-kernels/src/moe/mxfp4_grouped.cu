// The projections of the visited experts for many tokens, on the tensor cores: slots sorted by expert are cut into tiles
// of one expert each, and a block multiplies a tile with a strip of the expert's rows, which it unpacks once.

#include "mxfp4.h"

// Slots, weight rows and columns that a block multiplies at a time: a warp has 32 x 32 of the result.
#define TILE_SLOTS 64
#define TILE_ROWS 128
#define TILE_COLS 32
#define THREADS 256
// Elements of a staged row: a pad of 16 bytes keeps neighbours out of each other's memory banks.
#define STAGED_COLS (TILE_COLS + 8)

struct GroupedArgs {
  Mxfp4Weights weights;    // [num_experts, rows, cols]
  const float *bias;       // [num_experts, rows]
  const float *x;          // a row of `cols` per `slots_per_x` slots
  const uint32_t *starts;  // [num_experts + 1]: where each expert's slots begin in `sorted`
  const uint32_t *sorted;  // [num_slots]
  float *out;              // [num_slots, rows], or [num_slots, rows / 2] activated
  uint32_t num_experts;
  uint32_t slots_per_x;
  uint32_t rows;  // even
  uint32_t cols;  // a multiple of 32
  float limit;    // of the activation
};

struct GroupedShared {
  alignas(16) uint16_t x[TILE_SLOTS][STAGED_COLS];
  alignas(16) uint16_t w[TILE_ROWS][STAGED_COLS];
  uint32_t slots[TILE_SLOTS];
};

/// The expert and the slots of a tile; tiles of all experts are numbered in order. Past the last one there are no slots.
struct Tile {
  uint32_t expert;
  uint32_t first;
  uint32_t num_slots;
};

DEVICE Tile find_tile(const uint32_t *starts, uint32_t num_experts, uint32_t tile) {
  for (uint32_t expert = 0; expert < num_experts; expert++) {
    const uint32_t count = starts[expert + 1] - starts[expert], tiles = (count + TILE_SLOTS - 1) / TILE_SLOTS;
    if (tile < tiles) {
      const uint32_t left = count - tile * TILE_SLOTS;
      return {expert, starts[expert] + tile * TILE_SLOTS, left < TILE_SLOTS ? left : TILE_SLOTS};
    }
    tile -= tiles;
  }
  return {0, 0, 0};
}

/// Rounds a column block of the slots' activations to bf16: a thread has eight columns of one slot.
DEVICE void stage_x(const GroupedArgs &args, GroupedShared &shared, uint32_t col) {
  const uint32_t i = threadIdx.x / 4, part = threadIdx.x % 4 * 8;
  const float *x = args.x + (size_t)(shared.slots[i] / args.slots_per_x) * args.cols + col + part;
  const float4 a = reinterpret_cast<const float4 *>(x)[0], b = reinterpret_cast<const float4 *>(x)[1];
  *reinterpret_cast<uint4 *>(&shared.x[i][part]) = {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y),
                                                    pack_bf16(b.z, b.w)};
}

/// Unpacks a column block of the strip's rows, which is exact: a thread has half of one MXFP4 block.
DEVICE void stage_w(const GroupedArgs &args, GroupedShared &shared, uint32_t expert, uint32_t first_row, uint32_t col) {
  const uint32_t i = threadIdx.x / 2, part = threadIdx.x % 2 * 16;
  // Rows past the end read the last row; what comes of it is not written.
  const size_t row = (size_t)expert * args.rows + (first_row + i < args.rows ? first_row + i : args.rows - 1);
  const uint2 codes = *reinterpret_cast<const uint2 *>(args.weights.blocks + (row * args.cols + col + part) / 2);
  const float scale = e8m0(args.weights.scales[(row * args.cols + col) / 32]);
  uint32_t *staged = reinterpret_cast<uint32_t *>(&shared.w[i][part]);
#pragma unroll
  for (int pair = 0; pair < 8; pair++) {
    const uint32_t byte = (pair < 4 ? codes.x : codes.y) >> pair % 4 * 8;
    staged[pair] = pack_bf16(e2m1(byte) * scale, e2m1(byte >> 4) * scale);
  }
}

/// A warp's 32 x 32 of the tile's product, as two by four results of the tensor cores.
DEVICE void multiply_tile(const GroupedArgs &args, GroupedShared &shared, const Tile &tile, uint32_t first_row,
                          float (&acc)[2][4][4]) {
  const uint32_t warp = threadIdx.x / WARP_LANES, g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4 * 2;
  const uint32_t warp_slot = warp % 2 * 32, warp_row = warp / 2 * 32;
  for (uint32_t col = 0; col < args.cols; col += TILE_COLS) {
    __syncthreads();
    stage_x(args, shared, col);
    stage_w(args, shared, tile.expert, first_row, col);
    __syncthreads();
#pragma unroll
    for (uint32_t k = 0; k < TILE_COLS; k += 16) {
      const auto word = [](const uint16_t *at) { return *reinterpret_cast<const uint32_t *>(at); };
      uint32_t a[2][4], b[4][2];
#pragma unroll
      for (int m = 0; m < 2; m++) {
        const uint32_t slot = warp_slot + m * 16 + g;
        a[m][0] = word(&shared.x[slot][k + t]);
        a[m][1] = word(&shared.x[slot + 8][k + t]);
        a[m][2] = word(&shared.x[slot][k + t + 8]);
        a[m][3] = word(&shared.x[slot + 8][k + t + 8]);
      }
#pragma unroll
      for (int n = 0; n < 4; n++) {
        const uint32_t row = warp_row + n * 8 + g;
        b[n][0] = word(&shared.w[row][k + t]);
        b[n][1] = word(&shared.w[row][k + t + 8]);
      }
#pragma unroll
      for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++) mma_bf16_16x8x16(acc[m][n], a[m], b[n]);
    }
  }
}

/// Multiplies the tile of this block and gives each pair of neighbouring rows to `write(slot, row, first, second)`.
template <typename Write>
DEVICE void grouped(const GroupedArgs &args, GroupedShared &shared, Write write) {
  const Tile tile = find_tile(args.starts, args.num_experts, blockIdx.y);
  if (tile.num_slots == 0) return;
  if (threadIdx.x < TILE_SLOTS)
    // Slots past the end read the last slot; what comes of it is not written.
    shared.slots[threadIdx.x] =
        args.sorted[tile.first + (threadIdx.x < tile.num_slots ? threadIdx.x : tile.num_slots - 1)];
  const uint32_t first_row = blockIdx.x * TILE_ROWS;
  float acc[2][4][4] = {};
  multiply_tile(args, shared, tile, first_row, acc);

  const uint32_t warp = threadIdx.x / WARP_LANES, g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4 * 2;
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int n = 0; n < 4; n++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t i = warp % 2 * 32 + m * 16 + half * 8 + g, row = first_row + warp / 2 * 32 + n * 8 + t;
        if (i >= tile.num_slots || row >= args.rows) continue;
        const float *bias = args.bias + (size_t)tile.expert * args.rows + row;
        write(shared.slots[i], row, acc[m][n][2 * half] + bias[0], acc[m][n][2 * half + 1] + bias[1]);
      }
}

/// First projection with its activation: rows interleave gate and up. Grid [rows / TILE_ROWS, most tiles].
KERNEL void mxfp4_gate_up_grouped_f32(const GroupedArgs args) {
  SHARED(GroupedShared, shared);
  grouped(args, shared, [&](size_t slot, uint32_t row, float gate, float up) {
    args.out[slot * (args.rows / 2) + row / 2] = swiglu(gate, up, args.limit);
  });
}

/// Second projection. Grid [rows / TILE_ROWS, most tiles].
KERNEL void mxfp4_down_grouped_f32(const GroupedArgs args) {
  SHARED(GroupedShared, shared);
  grouped(args, shared, [&](size_t slot, uint32_t row, float first, float second) {
    args.out[slot * args.rows + row] = first;
    args.out[slot * args.rows + row + 1] = second;
  });
}

TWIN(mxfp4_gate_up_grouped_f32, GroupedArgs)
TWIN(mxfp4_down_grouped_f32, GroupedArgs)
