// The projections of the visited experts for many tokens, on simdgroup matrices: slots sorted by expert are cut into tiles
// of one expert each, and a threadgroup multiplies a tile with a strip of the expert's rows, which it unpacks once.

#include "../metal/prelude.h"
#include "mxfp4_metal.h"

// Slots, weight rows and columns that a threadgroup multiplies at a time: a simdgroup has 16 x 32 of the result.
#define GROUPED_SLOTS 32
#define GROUPED_ROWS 64
#define GROUPED_COLS 32
#define GROUPED_THREADS 128

struct GroupedArgs {
  uint num_experts;
  uint slots_per_x;  // a row of `x` serves so many slots
  uint rows;         // even
  uint cols;         // a multiple of 32
  float limit;       // of the activation
};

struct GroupedShared {
  float x[GROUPED_SLOTS][GROUPED_COLS];
  float w[GROUPED_ROWS][GROUPED_COLS];
  float product[GROUPED_SLOTS][GROUPED_ROWS];
  uint slots[GROUPED_SLOTS];
};

/// The expert and the slots of a tile; tiles of all experts are numbered in order. Past the last one there are no slots.
struct GroupedTile {
  uint expert;
  uint first;
  uint num_slots;
};

inline GroupedTile grouped_tile(device const uint *starts, uint num_experts, uint tile) {
  GroupedTile found = {0, 0, 0};
  for (uint expert = 0; expert < num_experts; expert++) {
    const uint count = starts[expert + 1] - starts[expert], tiles = (count + GROUPED_SLOTS - 1) / GROUPED_SLOTS;
    if (tile < tiles) {
      const uint left = count - tile * GROUPED_SLOTS;
      found.expert = expert;
      found.first = starts[expert] + tile * GROUPED_SLOTS;
      found.num_slots = left < GROUPED_SLOTS ? left : GROUPED_SLOTS;
      return found;
    }
    tile -= tiles;
  }
  return found;
}

/// Copies a column block of the slots' activations: a thread has eight columns of one slot.
inline void grouped_stage_x(threadgroup GroupedShared &shared, device const float *x, constant GroupedArgs &args,
                            uint col, uint index) {
  const uint i = index / 4, part = index % 4 * 8;
  device const float *from = x + ulong(shared.slots[i] / args.slots_per_x) * args.cols + col + part;
  for (uint j = 0; j < 8; j++) shared.x[i][part + j] = from[j];
}

/// Unpacks a column block of the strip's rows: a thread has half of one MXFP4 block. Rows past the end read the last row;
/// what comes of it is not written.
inline void grouped_stage_w(threadgroup GroupedShared &shared, device const uchar *blocks, device const uchar *scales,
                            constant GroupedArgs &args, ulong first_row, uint last, uint col, uint index) {
  const uint i = index / 2, part = index % 2 * 16;
  const ulong row = first_row + (i < last ? i : last);
  const uint2 codes = *(device const uint2 *)(blocks + (row * args.cols + col + part) / 2);
  const float scale = mxfp4_scale(scales[(row * args.cols + col) / 32]);
  for (uint j = 0; j < 16; j++) {
    const uint code = (j < 8 ? codes.x : codes.y) >> j % 8 * 4;
    shared.w[i][part + j] = twice_e2m1(code) * (0.5f * scale);
  }
}

/// The tile's product with rows `first_row..` of its expert, into `shared.product`.
inline void grouped_multiply(threadgroup GroupedShared &shared, device const uchar *blocks, device const uchar *scales,
                             device const float *x, constant GroupedArgs &args, GroupedTile tile, uint first_row,
                             uint index) {
  const uint simdgroup = index / SIMD_LANES, slot = simdgroup % 2 * 16, row = simdgroup / 2 * 32;
  const ulong expert_row = ulong(tile.expert) * args.rows + first_row;
  const uint last = (args.rows - first_row < GROUPED_ROWS ? args.rows - first_row : GROUPED_ROWS) - 1;
  simdgroup_float8x8 acc[2][4];
  for (uint m = 0; m < 2; m++)
    for (uint n = 0; n < 4; n++) acc[m][n] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  for (uint col = 0; col < args.cols; col += GROUPED_COLS) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    grouped_stage_x(shared, x, args, col, index);
    grouped_stage_w(shared, blocks, scales, args, expert_row, last, col, index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint k = 0; k < GROUPED_COLS; k += 8) {
      simdgroup_float8x8 a[2], b[4];
      for (uint m = 0; m < 2; m++) simdgroup_load(a[m], &shared.x[slot + m * 8][k], GROUPED_COLS);
      // Weights lie by rows; the product wants them by columns.
      for (uint n = 0; n < 4; n++) simdgroup_load(b[n], &shared.w[row + n * 8][k], GROUPED_COLS, 0, true);
      for (uint m = 0; m < 2; m++)
        for (uint n = 0; n < 4; n++) simdgroup_multiply_accumulate(acc[m][n], a[m], b[n], acc[m][n]);
    }
  }
  for (uint m = 0; m < 2; m++)
    for (uint n = 0; n < 4; n++) simdgroup_store(acc[m][n], &shared.product[slot + m * 8][row + n * 8], GROUPED_ROWS);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

/// Slots past the end of a tile read its last slot; what comes of it is not written.
inline void grouped_slots(threadgroup GroupedShared &shared, device const uint *sorted, GroupedTile tile, uint index) {
  if (index < GROUPED_SLOTS)
    shared.slots[index] = sorted[tile.first + (index < tile.num_slots ? index : tile.num_slots - 1)];
}

/// First projection with its activation: weights `[num_experts, rows, cols]`, rows interleaving gate and up; x `[n, cols]`,
/// starts and sorted of sort_slots, out `[num_slots, rows / 2]`. Grid [rows / GROUPED_ROWS, most tiles].
kernel void mxfp4_gate_up_grouped_f32(device const uchar *blocks, device const uchar *scales, device const float *bias,
                                      device const float *x, device const uint *starts, device const uint *sorted,
                                      device float *out, constant GroupedArgs &args,
                                      uint3 group [[threadgroup_position_in_grid]],
                                      uint index [[thread_index_in_threadgroup]]) {
  SHARED(GroupedShared, shared);
  const GroupedTile tile = grouped_tile(starts, args.num_experts, group.y);
  if (tile.num_slots == 0) return;
  const uint first_row = group.x * GROUPED_ROWS;
  grouped_slots(shared, sorted, tile, index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  grouped_multiply(shared, blocks, scales, x, args, tile, first_row, index);
  for (uint i = index; i < tile.num_slots * GROUPED_ROWS / 2; i += GROUPED_THREADS) {
    const uint slot = i / (GROUPED_ROWS / 2), pair = i % (GROUPED_ROWS / 2) * 2, row = first_row + pair;
    if (row >= args.rows) continue;
    device const float *b = bias + ulong(tile.expert) * args.rows + row;
    out[ulong(shared.slots[slot]) * (args.rows / 2) + row / 2] =
        mxfp4_swiglu(shared.product[slot][pair] + b[0], shared.product[slot][pair + 1] + b[1], args.limit);
  }
}

/// Second projection: `out` `[num_slots, rows]`.
kernel void mxfp4_down_grouped_f32(device const uchar *blocks, device const uchar *scales, device const float *bias,
                                   device const float *x, device const uint *starts, device const uint *sorted,
                                   device float *out, constant GroupedArgs &args,
                                   uint3 group [[threadgroup_position_in_grid]],
                                   uint index [[thread_index_in_threadgroup]]) {
  SHARED(GroupedShared, shared);
  const GroupedTile tile = grouped_tile(starts, args.num_experts, group.y);
  if (tile.num_slots == 0) return;
  const uint first_row = group.x * GROUPED_ROWS;
  grouped_slots(shared, sorted, tile, index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  grouped_multiply(shared, blocks, scales, x, args, tile, first_row, index);
  for (uint i = index; i < tile.num_slots * GROUPED_ROWS; i += GROUPED_THREADS) {
    const uint slot = i / GROUPED_ROWS, row = first_row + i % GROUPED_ROWS;
    if (row < args.rows)
      out[ulong(shared.slots[slot]) * args.rows + row] =
          shared.product[slot][i % GROUPED_ROWS] + bias[ulong(tile.expert) * args.rows + row];
  }
}

TWIN(mxfp4_gate_up_grouped_f32)
TWIN(mxfp4_down_grouped_f32)
