// What every CUDA kernel of ours includes. The same files are compiled for the GPU by nvcc and, for tests, as C++17 for
// the CPU over shim.h.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define KERNEL extern "C" __global__
#define DEVICE __device__ __forceinline__
/// A variable in the block's shared memory.
#define SHARED(type, name) __shared__ type name
/// Entry point of the CPU twin; nothing on the GPU.
#define TWIN(kernel, args_type)
#else
#include "shim.h"
#endif

#define WARP_LANES 32
#define FULL_WARP 0xffffffffu

DEVICE uint32_t bits_of(float x) {
#ifdef __CUDACC__
  return __float_as_uint(x);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
#endif
}

DEVICE float float_of(uint32_t bits) {
#ifdef __CUDACC__
  return __uint_as_float(bits);
#else
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
#endif
}

/// The two bf16 numbers in a word, the lower half first.
DEVICE float low_bf16(uint32_t pair) { return float_of(pair << 16); }
DEVICE float high_bf16(uint32_t pair) { return float_of(pair & 0xffff0000u); }

DEVICE float bf16_to_f32(uint16_t x) { return float_of((uint32_t)x << 16); }

/// Rounds to nearest even; NaN stays NaN.
DEVICE uint16_t f32_to_bf16(float x) {
  uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

DEVICE uint32_t pack_bf16(float low, float high) {
  return (uint32_t)f32_to_bf16(low) | (uint32_t)f32_to_bf16(high) << 16;
}

/// The sum over all lanes of a warp, in every lane; always in the same order.
DEVICE float warp_sum(float x) {
  for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(FULL_WARP, x, lanes);
  return x;
}

DEVICE float warp_max(float x) {
  for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, lanes));
  return x;
}

#ifdef __CUDACC__
/// The tensor cores' product of bf16 matrices, 16x16 times 16x8, added to `c`. With g = lane / 4 and t = lane % 4, a lane
/// has rows g and g + 8 of `a` at columns 2t and 2t + 8, column g of `b` at rows 2t and 2t + 8 (two neighbours a word),
/// and rows g and g + 8 of `c` at columns 2t and 2t + 1.
DEVICE void mma_bf16_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
