// Metal's words over gpu/fibers.h. A kernel's parameters are its buffers in their order, then the position of the
// threadgroup and the index of the thread in it.
#pragma once

#include <tuple>
#include <type_traits>
#include <utility>

#include "../gpu/fibers.h"

#define kernel static
#define device
#define constant const
#define threadgroup
#define thread
#define SHARED(type, name) type &name = *static_cast<type *>(shim::shared_memory(sizeof(type)))
#define TWIN(kernel_name)                                                                                         \
  extern "C" int kernel_name##_twin(void *const *buffers, unsigned x, unsigned y, unsigned z, unsigned threads) { \
    return shim::launch(shim::Call<kernel_name>::run, buffers, {x, y, z}, threads);                               \
  }

typedef uint32_t uint;
typedef uint16_t ushort;
typedef uint8_t uchar;

struct uint3 {
  uint x, y, z;
};
struct alignas(8) uint2 {
  uint x, y;
};
struct alignas(16) uint4 {
  uint x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
  float4() = default;
  float4(float x, float y, float z, float w) : x(x), y(y), z(z), w(w) {}
};

inline float dot(const float4 &a, const float4 &b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

template <typename To, typename From>
To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

enum class mem_flags { mem_none, mem_threadgroup };
inline void threadgroup_barrier(mem_flags) { shim::wait_at(shim::State::at_block_barrier); }
inline void simdgroup_barrier(mem_flags) { shim::wait_at(shim::State::at_warp_barrier); }

template <typename T>
T simd_shuffle_xor(T value, ushort lanes) {
  return shim::exchange(value, shim::current % shim::LANES ^ lanes);
}
template <typename T>
T simd_shuffle(T value, ushort lane) {
  return shim::exchange(value, lane);
}
inline float simd_sum(float x) {
  for (ushort lanes = shim::LANES / 2; lanes > 0; lanes /= 2) x += simd_shuffle_xor(x, lanes);
  return x;
}
inline float simd_max(float x) {
  for (ushort lanes = shim::LANES / 2; lanes > 0; lanes /= 2) x = fmaxf(x, simd_shuffle_xor(x, lanes));
  return x;
}

/// A simdgroup's 8 x 8 matrix: on a GPU its elements lie over the lanes, here each lane has them all.
struct simdgroup_float8x8 {
  float at[8][8];
};

template <typename T, int rows, int cols>
simdgroup_float8x8 make_filled_simdgroup_matrix(float value) {
  static_assert(rows == 8 && cols == 8, "the only size");
  simdgroup_float8x8 matrix;
  for (auto &row : matrix.at)
    for (float &element : row) element = value;
  return matrix;
}

/// All lanes come before any reads, as the matrix instructions ask for.
inline void simdgroup_load(simdgroup_float8x8 &to, const float *from, unsigned long row_len, unsigned long = 0,
                           bool transposed = false) {
  simdgroup_barrier(mem_flags::mem_none);
  for (int row = 0; row < 8; row++)
    for (int col = 0; col < 8; col++)
      to.at[transposed ? col : row][transposed ? row : col] = from[row * row_len + col];
}

inline void simdgroup_store(const simdgroup_float8x8 &from, float *to, unsigned long row_len) {
  simdgroup_barrier(mem_flags::mem_none);
  for (int row = 0; row < 8; row++)
    for (int col = 0; col < 8; col++) to[row * row_len + col] = from.at[row][col];
}

inline void simdgroup_multiply_accumulate(simdgroup_float8x8 &to, const simdgroup_float8x8 &a,
                                          const simdgroup_float8x8 &b, const simdgroup_float8x8 &c) {
  simdgroup_float8x8 sum = c;
  for (int row = 0; row < 8; row++)
    for (int col = 0; col < 8; col++)
      for (int k = 0; k < 8; k++) sum.at[row][col] += a.at[row][k] * b.at[k][col];
  to = sum;
}

namespace shim {

/// A buffer as a parameter of type `P`.
template <typename P>
struct Bound {
  static P of(void *buffer) {
    if constexpr (std::is_pointer_v<P>)
      return static_cast<P>(buffer);
    else
      return *static_cast<std::remove_reference_t<P> *>(buffer);
  }
};

/// Calls `function` with an array of buffers and the fiber's place.
template <auto function>
struct Call;
template <typename... P, void (*function)(P...)>
struct Call<function> {
  template <size_t... I>
  static void with(void *const *buffers, std::index_sequence<I...>) {
    using Parameters = std::tuple<P...>;
    function(Bound<std::tuple_element_t<I, Parameters>>::of(buffers[I])...,
             uint3{block_index.x, block_index.y, block_index.z}, current);
  }
  static void run(const void *buffers) {
    with(static_cast<void *const *>(buffers), std::make_index_sequence<sizeof...(P) - 2>{});
  }
};

}  // namespace shim
