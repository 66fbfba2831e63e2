// The MXFP4 format and the experts' activation, for all Metal kernels of the experts.
#pragma once

/// Twice an e2m1 value, which is a whole number: no subnormal comes up, which Apple's GPUs may take for zero.
inline float twice_e2m1(uint code) {
  const float magnitude = float(0xc8643210u >> (code & 7u) * 4u & 15u);
  return code & 8u ? -magnitude : magnitude;
}

inline float4 twice_e2m1_4(uint codes) {
  return float4(twice_e2m1(codes), twice_e2m1(codes >> 4), twice_e2m1(codes >> 8), twice_e2m1(codes >> 12));
}

/// An e8m0 scale, 2^(e - 127); 255 is NaN. The smallest, 2^-127, is subnormal.
inline float mxfp4_scale(uchar e) {
  return as_type<float>(e == 255 ? 0x7fc00000u : e == 0 ? 1u << 22 : uint(e) << 23);
}

/// `(up + 1) * gate * sigmoid(1.702 * gate)`, gate clamped above and up on both sides. NaN stays NaN.
inline float mxfp4_swiglu(float gate, float up, float limit) {
  gate = gate > limit ? limit : gate;
  up = up > limit ? limit : up;
  up = up < -limit ? -limit : up;
  return (up + 1.0f) * (gate / (1.0f + exp(-1.702f * gate)));
}
