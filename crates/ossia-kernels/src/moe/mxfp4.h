// The MXFP4 format and what the two projections of the experts share, for all kernels of the experts.
#pragma once

#include "../cuda/kernel.h"

/// Blocks [num_experts, rows, cols / 2] and scales [num_experts, rows, cols / 32].
struct Mxfp4Weights {
  const uint8_t *blocks;
  const uint8_t *scales;  // at most 128, which is 2
};

/// A tile of slots that visit one expert: `num_slots` of them from place `first` of the sorted slots on; none past the last tile.
struct SlotTile {
  uint32_t expert;
  uint32_t first;
  uint32_t num_slots;
  uint32_t unused;
};

/// One projection.
struct Mxfp4Args {
  Mxfp4Weights weights;    // [num_experts, rows, cols]
  const float *bias;       // [num_experts, rows]
  const uint16_t *x;       // bf16, a row of `cols` per `slots_per_x` slots, its columns in the order of `place_of`
  const SlotTile *tiles;   // [num_tiles]
  const uint32_t *sorted;  // [num_slots]
  void *out;               // bf16 [num_slots, rows / 2], activated, in the order of `place_of`; or f32 [num_slots, rows]
  uint32_t slots_per_x;
  uint32_t rows;  // even
  uint32_t cols;  // a multiple of 32
  float limit;    // of the activation
  uint32_t num_tiles;
};

/// Where column `col` of bf16 activations lies in their row: of each eight, columns i and i + 4 are neighbours, as codes come
/// out of a word without crossing its halves.
DEVICE uint32_t place_of(uint32_t col) { return (col & ~7u) | (col & 3) << 1 | (col >> 2 & 1); }

/// A word of codes, columns i and i + 4 as pair i, times `scale`, which is 2^126 times the block's. A code's bits become
/// those of a bf16 number that is 2^126 times too small, subnormal for 0.5; the product is exact.
DEVICE uint4 unpack(uint32_t codes, uint32_t scale) {
  return {multiply_bf16_pairs((codes << 6 & 0x01c001c0) | (codes << 12 & 0x80008000), scale),
          multiply_bf16_pairs((codes << 2 & 0x01c001c0) | (codes << 8 & 0x80008000), scale),
          multiply_bf16_pairs((codes >> 2 & 0x01c001c0) | (codes << 4 & 0x80008000), scale),
          multiply_bf16_pairs((codes >> 6 & 0x01c001c0) | (codes & 0x80008000), scale)};
}

/// 2^126 times an e8m0 scale, 2^(e - 127), as two equal bf16 numbers.
DEVICE uint32_t scale_pair(uint32_t e) { return e * 0x00800080 + 0x3f003f00; }

/// `(up + 1) * gate * sigmoid(1.702 * gate)`, gate clamped above and up on both sides. NaN stays NaN.
DEVICE float swiglu(float gate, float up, float limit) {
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : up;
  up = up < -limit ? -limit : up;
  return (up + 1.0f) * (gate / (1.0f + expf(-1.702f * gate)));
}

/// What the first projection gives: its rows interleave gate and up.
DEVICE void write_activated(const Mxfp4Args &args, size_t slot, uint32_t row, float gate, float up) {
  uint16_t *activated = static_cast<uint16_t *>(args.out) + slot * (args.rows / 2);
  activated[place_of(row / 2)] = f32_to_bf16(swiglu(gate, up, args.limit));
}

/// What the second one gives.
DEVICE void write_sums(const Mxfp4Args &args, size_t slot, uint32_t row, float first, float second) {
  float2 *out = reinterpret_cast<float2 *>(static_cast<float *>(args.out) + slot * args.rows + row);
  *out = {first, second};
}
