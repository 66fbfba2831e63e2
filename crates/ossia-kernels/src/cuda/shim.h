// CUDA's words over fibers.h, so that nvcc's sources compile as C++17 for the CPU.
#pragma once

#include "../gpu/fibers.h"

#define KERNEL static
#define KERNEL_OF(threads, blocks) static
#define DEVICE static inline
#define __restrict__
#define SHARED(type, name) type &name = *static_cast<type *>(shim::shared_memory(sizeof(type)))
#define TWIN(kernel, args_type)                                                                                  \
  extern "C" int kernel##_twin(const args_type *args, unsigned x, unsigned y, unsigned z, unsigned threads) {    \
    return shim::launch([](const void *a) { kernel(*static_cast<const args_type *>(a)); }, args, {x, y, z}, threads); \
  }

struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};

#define threadIdx (dim3{shim::current, 0, 0})
#define blockIdx (shim::block_index)
#define blockDim (dim3{shim::num_threads, 1, 1})
#define gridDim (shim::grid_size)

inline void __syncthreads() { shim::wait_at(shim::State::at_block_barrier); }
inline void __syncwarp() { shim::wait_at(shim::State::at_warp_barrier); }

/// Only whole warps shuffle here.
template <typename T>
T __shfl_xor_sync(uint32_t, T value, int lanes) {
  return shim::exchange(value, shim::current % shim::LANES ^ (unsigned)lanes);
}
template <typename T>
T __shfl_sync(uint32_t, T value, int lane) {
  return shim::exchange(value, (unsigned)lane);
}

inline uint32_t __ballot_sync(uint32_t, bool vote) {
  uint32_t bits = 0;
  shim::Fiber &own = shim::fibers[shim::current];
  unsigned warp = shim::current / shim::LANES * shim::LANES;
  own.given = vote;
  shim::wait_at(shim::State::at_warp_barrier);
  for (unsigned lane = 0; lane < shim::LANES; lane++) bits |= (uint32_t)shim::fibers[warp + lane].given << lane;
  shim::wait_at(shim::State::at_warp_barrier);
  return bits;
}

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }

/// The tensor cores' product of bf16 matrices, 16x16 times 16x8, added to `c`. Which lane holds which element is as the
/// PTX manual says for mma.m16n8k16.
inline void mma_bf16_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  shim::Fiber &own = shim::fibers[shim::current];
  unsigned warp = shim::current / shim::LANES * shim::LANES, lane = shim::current % shim::LANES;
  memcpy(own.fragment, a, sizeof a);
  memcpy(own.fragment + 4, b, sizeof b);
  shim::wait_at(shim::State::at_warp_barrier);
  auto element = [&](unsigned holder, unsigned reg, unsigned half) {
    uint32_t bits = shim::fibers[warp + holder].fragment[reg] >> 16 * half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
  };
  for (unsigned i = 0; i < 4; i++) {
    unsigned row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; k++) {
      float from_a = element(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2);
      float from_b = element(col * 4 + k % 8 / 2, 4 + k / 8, k % 2);
      c[i] += from_a * from_b;
    }
  }
  shim::wait_at(shim::State::at_warp_barrier);
}
