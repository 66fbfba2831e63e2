// The MXFP4 format and the experts' activation, for all kernels of the experts.
#pragma once

#include "../cuda/kernel.h"

/// Blocks [num_experts, rows, cols / 2] and scales [num_experts, rows, cols / 32].
struct Mxfp4Weights {
  const uint8_t *blocks;
  const uint8_t *scales;
};

/// An e2m1 value: its three magnitude bits become the lowest exponent bits and the highest mantissa bit of an f32 that
/// is 2^126 times too small, subnormal for 0.5.
DEVICE float e2m1(uint32_t code) { return float_of((code & 7) << 22 | (code & 8) << 28) * 0x1p126f; }

/// An e8m0 scale, 2^(e - 127); 255 is NaN and 0 is subnormal.
DEVICE float e8m0(uint8_t e) { return float_of(e == 255 ? 0x7fc00000u : e == 0 ? 1u << 22 : (uint32_t)e << 23); }

/// `(up + 1) * gate * sigmoid(1.702 * gate)`, gate clamped above and up on both sides. NaN stays NaN.
DEVICE float swiglu(float gate, float up, float limit) {
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : up;
  up = up < -limit ? -limit : up;
  return (up + 1.0f) * (gate / (1.0f + expf(-1.702f * gate)));
}
