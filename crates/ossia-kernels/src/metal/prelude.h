// What every Metal source of ours includes: Metal's library on an Apple GPU, and over shim.h the same words in C++17, so
// that the tests run each kernel on the CPU. At run time this file and the sources are joined to one text.
#pragma once

#ifdef __METAL_VERSION__
#include <metal_stdlib>
using namespace metal;
/// A variable of the threadgroup's memory.
#define SHARED(type, name) threadgroup type name
/// Entry point of the CPU twin; nothing on the GPU.
#define TWIN(kernel_name)
#else
#include "shim.h"
#endif

/// Lanes of a simdgroup, on every Apple GPU.
#define SIMD_LANES 32

inline float bf16_to_f32(ushort x) { return as_type<float>(uint(x) << 16); }

/// The two bf16 numbers in a word, the lower half first.
inline float low_bf16(uint pair) { return as_type<float>(pair << 16); }
inline float high_bf16(uint pair) { return as_type<float>(pair & 0xffff0000u); }

/// Rounds to nearest even; NaN stays NaN.
inline ushort f32_to_bf16(float x) {
  const uint bits = as_type<uint>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return ushort(bits >> 16 | 0x40u);
  return ushort((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
