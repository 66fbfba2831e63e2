// What every CUDA kernel of ours includes. The same files are compiled for the GPU by nvcc and, for tests, as C++17 for
// the CPU over shim.h.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define KERNEL extern "C" __global__
/// Of a kernel whose loads are to be under way together: told that `blocks` blocks of `threads` are enough, the compiler
/// spends registers on them; else it saves registers and waits for each load.
#define KERNEL_OF(threads, blocks) extern "C" __global__ __launch_bounds__(threads, blocks)
/// Also of a member that belongs to the type.
#define DEVICE static __device__ __forceinline__
/// A variable in the block's shared memory.
#define SHARED(type, name) __shared__ type name
/// Entry point of the CPU twin; nothing on the GPU.
#define TWIN(kernel, args_type)
#else
#include "shim.h"
#endif

#define WARP_LANES 32
#define FULL_WARP 0xffffffffu

/// Waits until what the launch before this one wrote can be seen, then lets the next launch begin, whose blocks come here in
/// turn: on devices that can, a kernel begins while the one before it ends. Every thread calls it, before it writes anything
/// and before it reads what that launch wrote; what earlier launches wrote can be seen from the start.
DEVICE void await_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

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
#ifdef __CUDACC__
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
#else
  uint32_t bits = bits_of(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
#endif
}

DEVICE uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return (uint32_t)f32_to_bf16(low) | (uint32_t)f32_to_bf16(high) << 16;
#endif
}

/// `a * b + c` of pairs of bf16 numbers, each rounded.
DEVICE uint32_t multiply_add_bf16_pairs(uint32_t a, uint32_t b, uint32_t c) {
#ifdef __CUDACC__
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(a), "r"(b), "r"(c));
  return sum;
#else
  return pack_bf16(low_bf16(a) * low_bf16(b) + low_bf16(c), high_bf16(a) * high_bf16(b) + high_bf16(c));
#endif
}
/// Products of two pairs: adding -0 changes none. And sums.
DEVICE uint32_t multiply_bf16_pairs(uint32_t a, uint32_t b) { return multiply_add_bf16_pairs(a, b, 0x80008000u); }
DEVICE uint32_t add_bf16_pairs(uint32_t a, uint32_t b) { return multiply_add_bf16_pairs(a, 0x3f803f80u, b); }

DEVICE float f16_to_f32(uint16_t x) {
#ifdef __CUDACC__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x));
  return wide;
#else
  const uint32_t exponent = x >> 10 & 31, fraction = x & 0x3ff, sign = (uint32_t)(x & 0x8000) << 16;
  if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
  const float size = ldexpf((float)(exponent ? fraction | 0x400 : fraction), (int)(exponent ? exponent : 1) - 25);
  return sign ? -size : size;
#endif
}

/// The lower two bytes of a word, each in a half of one, and the upper two.
DEVICE uint32_t lower_bytes(uint32_t x) {
#ifdef __CUDACC__
  return __byte_perm(x, 0, 0x4140);
#else
  return (x & 0xff) | (x & 0xff00) << 8;
#endif
}
DEVICE uint32_t upper_bytes(uint32_t x) {
#ifdef __CUDACC__
  return __byte_perm(x, 0, 0x4342);
#else
  return lower_bytes(x >> 16);
#endif
}

/// Two to the power of `x`, which is at most 0; 0 where the result would be subnormal.
DEVICE float exp2_of(float x) {
#ifdef __CUDACC__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return exp2f(x);
#endif
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

/// The largest over the four lanes that hold a row of the tensor cores' result, and the sum.
DEVICE float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
  return fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
}
DEVICE float quad_sum(float x) {
  x += __shfl_xor_sync(FULL_WARP, x, 1);
  return x + __shfl_xor_sync(FULL_WARP, x, 2);
}

/// Sixteen bytes of a weight, zero if `there` is false: read once, so they are kept out of the first cache.
DEVICE uint4 stream_16(const void *at, bool there = true) {
#ifdef __CUDACC__
  uint4 x = {0, 0, 0, 0};
  if (there)
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(at));
  return x;
#else
  return there ? *static_cast<const uint4 *>(at) : uint4{0, 0, 0, 0};
#endif
}
/// The same of eight bytes.
DEVICE uint2 stream_8(const void *at, bool there = true) {
#ifdef __CUDACC__
  uint2 x = {0, 0};
  if (there) asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(at));
  return x;
#else
  return there ? *static_cast<const uint2 *>(at) : uint2{0, 0};
#endif
}
/// Sixteen bytes that others read too.
DEVICE uint4 load_16(const void *at) {
#ifdef __CUDACC__
  uint4 x;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(at));
  return x;
#else
  return *static_cast<const uint4 *>(at);
#endif
}

/// Begins to copy sixteen bytes into shared memory, zeros if `there` is false; `commit_copies` closes a group of such copies, and `wait_for_copies` waits
/// for all groups but the last PENDING, each thread for its own.
DEVICE void copy_async_16(void *shared, const void *at, bool there = true) {
#ifdef __CUDACC__
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared), bytes = there ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(at), "r"(bytes) : "memory");
#else
  *static_cast<uint4 *>(shared) = there ? *static_cast<const uint4 *>(at) : uint4{0, 0, 0, 0};
#endif
}
/// The same of eight bytes.
DEVICE void copy_async_8(void *shared, const void *at, bool there = true) {
#ifdef __CUDACC__
  const uint32_t to = (uint32_t)__cvta_generic_to_shared(shared), bytes = there ? 8 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(to), "l"(at), "r"(bytes) : "memory");
#else
  *static_cast<uint2 *>(shared) = there ? *static_cast<const uint2 *>(at) : uint2{0, 0};
#endif
}
DEVICE void commit_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int PENDING>
DEVICE void wait_for_copies() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}

DEVICE uint32_t word_of(const uint4 &x, int i) { return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w; }

/// Element `i` of two vectors of eight bf16 numbers, side by side.
DEVICE uint32_t bf16_pair(const uint4 &a, const uint4 &b, int i) {
  const uint32_t x = word_of(a, i / 2), y = word_of(b, i / 2);
  return i % 2 == 0 ? (x & 0xffff) | y << 16 : x >> 16 | (y & 0xffff0000);
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
