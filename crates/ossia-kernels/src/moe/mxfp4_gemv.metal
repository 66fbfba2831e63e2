// Both projections of the visited experts: a group of up to four slots that visit the same expert reads it once.
// Activations are not rounded.

#include "../metal/prelude.h"
#include "mxfp4_metal.h"

// Slots of a threadgroup, rows of a simdgroup, simdgroups of a threadgroup.
#define MXFP4_SLOTS 4
#define MXFP4_ROWS 4
#define MXFP4_SIMDGROUPS 8
// Values that a lane takes at a time: 8 bytes, half a block.
#define MXFP4_STEP 16

struct Mxfp4Args {
  uint num_slots;
  uint slots_per_x;  // a row of `x` serves so many slots
  uint rows;         // even
  uint cols;         // a multiple of 32
  float limit;       // of the activation
};

/// The slots that visit an expert, up to MXFP4_SLOTS of them.
struct Mxfp4Visit {
  uint num_slots;
  uint slots[MXFP4_SLOTS];
};

/// The visitors of the expert of `slot` if `slot` is the first of them or a multiple of MXFP4_SLOTS after it: each group
/// of visitors has one threadgroup. The others have none. Places past the last visitor repeat the first.
inline Mxfp4Visit mxfp4_visitors(device const uint *experts, uint num_slots, uint slot) {
  uint before = 0;
  for (uint other = 0; other < slot; other++) before += experts[other] == experts[slot];
  Mxfp4Visit visit;
  visit.num_slots = 0;
  for (uint i = 0; i < MXFP4_SLOTS; i++) visit.slots[i] = slot;
  if (before % MXFP4_SLOTS != 0) return visit;
  for (uint other = slot; other < num_slots && visit.num_slots < MXFP4_SLOTS; other++)
    if (experts[other] == experts[slot]) visit.slots[visit.num_slots++] = other;
  return visit;
}

/// Sixteen products of doubled values, low nibble first.
inline float mxfp4_dot(uint2 codes, device const float4 *x) {
  return dot(twice_e2m1_4(codes.x), x[0]) + dot(twice_e2m1_4(codes.x >> 16), x[1]) +
         dot(twice_e2m1_4(codes.y), x[2]) + dot(twice_e2m1_4(codes.y >> 16), x[3]);
}

/// `acc[r][t] = weights[expert][first_row + r] . x[t]`, summed over the simdgroup. Rows past the end read the last row.
inline void mxfp4_multiply(device const uchar *blocks, device const uchar *scales, device const float *x,
                           constant Mxfp4Args &args, uint expert, uint first_row, uint lane, Mxfp4Visit visit,
                           thread float (&acc)[MXFP4_ROWS][MXFP4_SLOTS]) {
  for (uint r = 0; r < MXFP4_ROWS; r++)
    for (uint t = 0; t < MXFP4_SLOTS; t++) acc[r][t] = 0;
  for (uint col = lane * MXFP4_STEP; col < args.cols; col += SIMD_LANES * MXFP4_STEP) {
    uint2 codes[MXFP4_ROWS];
    float scale[MXFP4_ROWS];
    for (uint r = 0; r < MXFP4_ROWS; r++) {
      const ulong row = ulong(expert) * args.rows + (first_row + r < args.rows ? first_row + r : args.rows - 1);
      codes[r] = *(device const uint2 *)(blocks + (row * args.cols + col) / 2);
      scale[r] = mxfp4_scale(scales[(row * args.cols + col) / 32]);
    }
    for (uint t = 0; t < MXFP4_SLOTS; t++) {
      device const float4 *at =
          (device const float4 *)(x + ulong(visit.slots[t] / args.slots_per_x) * args.cols + col);
      for (uint r = 0; r < MXFP4_ROWS; r++) acc[r][t] += mxfp4_dot(codes[r], at) * scale[r];
    }
  }
  for (uint r = 0; r < MXFP4_ROWS; r++)
    for (uint t = 0; t < MXFP4_SLOTS; t++) acc[r][t] = 0.5f * simd_sum(acc[r][t]);
}

/// First projection with its activation: weights `[num_experts, rows, cols]`, rows interleaving gate and up; `x`
/// `[n, cols]`, `experts` `[num_slots]`, `out` `[num_slots, rows / 2]`. Grid [rows / (simdgroups * ROWS), num_slots].
kernel void mxfp4_gate_up_f32(device const uchar *blocks, device const uchar *scales, device const float *bias,
                              device const float *x, device const uint *experts, device float *out,
                              constant Mxfp4Args &args, uint3 group [[threadgroup_position_in_grid]],
                              uint index [[thread_index_in_threadgroup]]) {
  const Mxfp4Visit visit = mxfp4_visitors(experts, args.num_slots, group.y);
  if (visit.num_slots == 0) return;
  const uint expert = experts[group.y], lane = index % SIMD_LANES;
  const uint first_row = (group.x * MXFP4_SIMDGROUPS + index / SIMD_LANES) * MXFP4_ROWS;
  float acc[MXFP4_ROWS][MXFP4_SLOTS];
  mxfp4_multiply(blocks, scales, x, args, expert, first_row, lane, visit, acc);
  if (lane != 0) return;
  for (uint r = 0; r < MXFP4_ROWS; r += 2)
    for (uint t = 0; t < visit.num_slots; t++) {
      const uint row = first_row + r;
      if (row >= args.rows) continue;
      device const float *b = bias + ulong(expert) * args.rows + row;
      out[ulong(visit.slots[t]) * (args.rows / 2) + row / 2] =
          mxfp4_swiglu(acc[r][t] + b[0], acc[r + 1][t] + b[1], args.limit);
    }
}

/// Second projection: `out` `[num_slots, rows]`.
kernel void mxfp4_down_f32(device const uchar *blocks, device const uchar *scales, device const float *bias,
                           device const float *x, device const uint *experts, device float *out,
                           constant Mxfp4Args &args, uint3 group [[threadgroup_position_in_grid]],
                           uint index [[thread_index_in_threadgroup]]) {
  const Mxfp4Visit visit = mxfp4_visitors(experts, args.num_slots, group.y);
  if (visit.num_slots == 0) return;
  const uint expert = experts[group.y], lane = index % SIMD_LANES;
  const uint first_row = (group.x * MXFP4_SIMDGROUPS + index / SIMD_LANES) * MXFP4_ROWS;
  float acc[MXFP4_ROWS][MXFP4_SLOTS];
  mxfp4_multiply(blocks, scales, x, args, expert, first_row, lane, visit, acc);
  if (lane != 0) return;
  for (uint r = 0; r < MXFP4_ROWS; r++)
    for (uint t = 0; t < visit.num_slots; t++) {
      const uint row = first_row + r;
      if (row < args.rows) out[ulong(visit.slots[t]) * args.rows + row] = acc[r][t] + bias[ulong(expert) * args.rows + row];
    }
}

TWIN(mxfp4_gate_up_f32)
TWIN(mxfp4_down_f32)
