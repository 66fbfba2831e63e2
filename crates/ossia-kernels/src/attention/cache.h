// What the kernels of attention know about the numbers of a cache: how eight neighbours are read, and become bf16, which the
// tensor cores multiply.
#pragma once

#include "../cuda/kernel.h"

/// Eight codes of e4m3 as bf16, exactly; NaN stays NaN.
DEVICE uint32_t e4m3_pair_to_bf16(uint32_t codes) {
  // Shifted into place, the exponent is 120 too small; the product is right for the smallest numbers too.
  const uint32_t small = (codes & 0x00800080u) << 8 | (codes & 0x007f007fu) << 4;
  const uint32_t is_nan = ((codes & 0x007f007fu) + 0x00010001u & 0x00800080u) >> 7;
  return multiply_bf16_pairs(small, 0x7b807b80u) | is_nan * 0x7fc0u;
}
DEVICE uint4 e4m3_to_bf16(const uint2 &codes) {
  return {e4m3_pair_to_bf16(lower_bytes(codes.x)), e4m3_pair_to_bf16(upper_bytes(codes.x)), e4m3_pair_to_bf16(lower_bytes(codes.y)),
          e4m3_pair_to_bf16(upper_bytes(codes.y))};
}

/// Rounds to nearest even; what is larger than 448 becomes 448, NaN stays NaN.
DEVICE uint8_t f32_to_e4m3(float x) {
  const uint32_t sign = bits_of(x) >> 24 & 0x80, abs = bits_of(x) & 0x7fffffffu;
  if (abs > 0x7f800000u) return (uint8_t)(sign | 0x7f);
  // Below 2^-6 codes are multiples of 2^-9, the steps that floats of this size have.
  if (abs < 0x3c800000u) return (uint8_t)(sign | bits_of(float_of(abs) + 16384.0f) - bits_of(16384.0f));
  const uint32_t code = (abs + 0x7ffffu + (abs >> 20 & 1) >> 20) - (120 << 3);
  return (uint8_t)(sign | (code < 0x7e ? code : 0x7e));
}

/// A cache in bf16.
struct Bf16Cache {
  using Element = uint16_t;
  /// Eight neighbours as they are stored.
  using Eight = uint4;
  DEVICE Element round(float x) { return f32_to_bf16(x); }
  DEVICE uint4 to_bf16(const Eight &x) { return x; }
  /// Zeros if `there` is false.
  DEVICE Eight stream(const void *cache, size_t at, bool there) {
    return stream_16(static_cast<const Element *>(cache) + at, there);
  }
  DEVICE void copy_async(Eight *shared, const void *cache, size_t at, bool there) {
    copy_async_16(shared, static_cast<const Element *>(cache) + at, there);
  }
  /// Where in a tile in shared memory eight dimensions of a key lie, of heads of 64, so that the lanes of a read never meet in
  /// a memory bank: neither four chunks of two keys nor two chunks of every second key.
  DEVICE uint32_t place(uint32_t key, uint32_t chunk) { return key * 8 + (chunk ^ (key & 1) << 2 ^ (key >> 1 & 3) << 1); }
};

/// A cache in e4m3.
struct Fp8Cache {
  using Element = uint8_t;
  using Eight = uint2;
  DEVICE Element round(float x) { return f32_to_e4m3(x); }
  DEVICE uint4 to_bf16(const Eight &x) { return e4m3_to_bf16(x); }
  DEVICE Eight stream(const void *cache, size_t at, bool there) {
    return stream_8(static_cast<const Element *>(cache) + at, there);
  }
  DEVICE void copy_async(Eight *shared, const void *cache, size_t at, bool there) {
    copy_async_8(shared, static_cast<const Element *>(cache) + at, there);
  }
  /// The same, for half a warp at a time: neither four chunks of four keys nor four chunks of every second key.
  DEVICE uint32_t place(uint32_t key, uint32_t chunk) {
    return key / 2 * 16 + ((key % 2 * 8 + chunk) ^ (key / 2 & 3) << 2);
  }
};
