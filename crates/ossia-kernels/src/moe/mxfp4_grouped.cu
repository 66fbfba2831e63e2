// The projections of the visited experts for many tokens, on the tensor cores: a block multiplies a tile of slots of one
// expert with a strip of the expert's rows; two blocks share a multiprocessor, so that one multiplies while the other waits. While a
// step's columns are multiplied, the next one's weights are unpacked, and what two later ones need is on its way.

#include "mxfp4.h"

// Weight rows, slots and columns that a block multiplies at a time: a warp has 64 x 64 of the result.
#define TILE_ROWS 128
#define TILE_SLOTS 128
#define STEP 32
#define THREADS 128
#define WARP_ROWS 64
#define WARP_SLOTS 64
// Words of codes and pieces of activations that a thread stages in a step.
#define WORDS (TILE_ROWS / 2 * 4 / THREADS)
#define COPIES (TILE_SLOTS * 4 / THREADS)
// Steps whose activations are in shared memory or on their way there, and whose codes are in registers.
#define X_STAGES 3
#define W_STAGES 2
// Products of the tensor cores that these are made of.
#define ROW_TILES (WARP_ROWS / 16)
#define SLOT_TILES (WARP_SLOTS / 8)

struct GroupedShared {
  /// Sixteen rows as lanes hold them, by half of the step's columns.
  uint4 w[2][2][TILE_ROWS / 16][WARP_LANES];
  uint4 x[X_STAGES][TILE_SLOTS][STEP / 8];
};

/// What a thread stages: words of codes of neighbouring rows, and pieces of the slots' activations.
struct Staging {
  const uint8_t *codes[WORDS][2];
  const uint8_t *scales[WORDS][2];
  const uint16_t *x[COPIES];
};

/// The codes of a step on their way.
struct Codes {
  uint32_t words[WORDS][2];
  uint32_t scales[WORDS][2];
};

DEVICE Staging make_staging(const Mxfp4Args &args, const SlotTile &tile, uint32_t first_row) {
  Staging staging;
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    const uint32_t unit = threadIdx.x + i * THREADS;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      // Rows past the end read the last row, slots past the end the first slot; neither is written.
      const uint32_t row = first_row + unit / 4 * 2 + half;
      const size_t start = ((size_t)tile.expert * args.rows + (row < args.rows ? row : args.rows - 1)) * args.cols;
      staging.codes[i][half] = args.weights.blocks + start / 2 + unit % 4 * 4;
      staging.scales[i][half] = args.weights.scales + start / 32;
    }
  }
#pragma unroll
  for (int i = 0; i < COPIES; i++) {
    const uint32_t unit = threadIdx.x + i * THREADS;
    const uint32_t at = unit / 4, slot = args.sorted[tile.first + (at < tile.num_slots ? at : 0)];
    staging.x[i] = args.x + (size_t)(slot / args.slots_per_x) * args.cols + unit % 4 * 8;
  }
  return staging;
}

/// Begins to load the weights of a step.
DEVICE void load_w(const Staging &staging, uint32_t step, Codes &codes) {
#pragma unroll
  for (int i = 0; i < WORDS; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      codes.words[i][half] = *reinterpret_cast<const uint32_t *>(staging.codes[i][half] + step * (STEP / 2));
      codes.scales[i][half] = staging.scales[i][half][step];
    }
}

/// Unpacks them, neighbouring rows side by side as the tensor cores take rows g and g + 8.
DEVICE void unpack_w(const Codes &codes, GroupedShared &shared, uint32_t buffer) {
#pragma unroll
  for (int i = 0; i < WORDS; i++) {
    const uint32_t unit = threadIdx.x + i * THREADS;
    const uint4 upper = unpack(codes.words[i][0], scale_pair(codes.scales[i][0]));
    const uint4 lower = unpack(codes.words[i][1], scale_pair(codes.scales[i][1]));
    shared.w[buffer][0][unit / WARP_LANES][unit % WARP_LANES] = {upper.x, lower.x, upper.y, lower.y};
    shared.w[buffer][1][unit / WARP_LANES][unit % WARP_LANES] = {upper.z, lower.z, upper.w, lower.w};
  }
}

/// Begins to copy the activations of a step.
DEVICE void copy_x(const Staging &staging, GroupedShared &shared, uint32_t step) {
  const uint32_t buffer = step % X_STAGES;
#pragma unroll
  for (int i = 0; i < COPIES; i++) {
    const uint32_t unit = threadIdx.x + i * THREADS;
    copy_async_16(&shared.x[buffer][unit / 4][unit % 4], staging.x[i] + step * STEP);
  }
}

/// A warp's part of a step.
DEVICE void multiply_step(const GroupedShared &shared, uint32_t step, float (&acc)[ROW_TILES][SLOT_TILES][4]) {
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
  const uint32_t first_tile = warp / 2 * ROW_TILES, first_slot = warp % 2 * WARP_SLOTS;
  uint4 x[SLOT_TILES];
#pragma unroll
  for (int n = 0; n < SLOT_TILES; n++) x[n] = shared.x[step % X_STAGES][first_slot + n * 8 + lane / 4][lane % 4];
#pragma unroll
  for (int half = 0; half < 2; half++)
#pragma unroll
    for (int m = 0; m < ROW_TILES; m++) {
      const uint4 w = shared.w[step % 2][half][first_tile + m][lane];
#pragma unroll
      for (int n = 0; n < SLOT_TILES; n++)
        mma_bf16_16x8x16(acc[m][n], {w.x, w.y, w.z, w.w}, {half ? x[n].z : x[n].x, half ? x[n].w : x[n].y});
    }
}

/// Multiplies the tile of this block and gives each pair of neighbouring rows to `write(slot, row, first, second)`.
template <typename Write>
DEVICE void grouped(const Mxfp4Args &args, GroupedShared &shared, Write write) {
  const SlotTile tile = args.tiles[blockIdx.y];
  if (tile.num_slots == 0) return;
  const uint32_t warp = threadIdx.x / WARP_LANES, g = threadIdx.x % WARP_LANES / 4, t = threadIdx.x % 4;
  const uint32_t first_row = blockIdx.x * TILE_ROWS, first_slot = warp % 2 * WARP_SLOTS;
  const uint32_t num_steps = args.cols / STEP;
  const Staging staging = make_staging(args, tile, first_row);
  Codes codes[W_STAGES];
  load_w(staging, 0, codes[0]);
#pragma unroll
  for (uint32_t step = 0; step + 1 < X_STAGES; step++) {
    if (step < num_steps) copy_x(staging, shared, step);
    commit_copies();
  }
  unpack_w(codes[0], shared, 0);
#pragma unroll
  for (uint32_t step = 1; step <= W_STAGES; step++)
    if (step < num_steps) load_w(staging, step, codes[step % W_STAGES]);
  float acc[ROW_TILES][SLOT_TILES][4] = {};
  for (uint32_t first = 0; first < num_steps; first += W_STAGES)
#pragma unroll
    for (uint32_t i = 0; i < W_STAGES; i++) {
      const uint32_t step = first + i, next = (i + 1) % W_STAGES;
      if (step >= num_steps) break;
      wait_for_copies<X_STAGES - 2>();
      __syncthreads();
      if (step + X_STAGES - 1 < num_steps) copy_x(staging, shared, step + X_STAGES - 1);
      commit_copies();
      if (step + 1 < num_steps) unpack_w(codes[next], shared, (step + 1) % 2);
      if (step + 1 + W_STAGES < num_steps) load_w(staging, step + 1 + W_STAGES, codes[next]);
      if (first_slot < tile.num_slots) multiply_step(shared, step, acc);
    }

#pragma unroll
  for (int n = 0; n < SLOT_TILES; n++)
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint32_t at = first_slot + n * 8 + t * 2 + i;
      if (at >= tile.num_slots) continue;
      const uint32_t slot = args.sorted[tile.first + at];
#pragma unroll
      for (int m = 0; m < ROW_TILES; m++) {
        const uint32_t row = first_row + warp / 2 * WARP_ROWS + m * 16 + g * 2;
        if (row >= args.rows) continue;
        const float *bias = args.bias + (size_t)tile.expert * args.rows + row;
        write(slot, row, acc[m][n][i] + bias[0], acc[m][n][2 + i] + bias[1]);
      }
    }
}

/// Grid [tiles of rows, tiles of slots].
KERNEL_OF(THREADS, 2) void mxfp4_gate_up_grouped(const Mxfp4Args args) {
  SHARED(GroupedShared, shared);
  await_previous();
  grouped(args, shared, [&](uint32_t slot, uint32_t row, float gate, float up) { write_activated(args, slot, row, gate, up); });
}
KERNEL_OF(THREADS, 2) void mxfp4_down_grouped(const Mxfp4Args args) {
  SHARED(GroupedShared, shared);
  await_previous();
  grouped(args, shared, [&](uint32_t slot, uint32_t row, float a, float b) { write_sums(args, slot, row, a, b); });
}

TWIN(mxfp4_gate_up_grouped, Mxfp4Args)
TWIN(mxfp4_down_grouped, Mxfp4Args)
