// Linear layers with weights of 8 bits: of up to 64 tokens as in bf16, and the weights widened to bf16 for more.

#include "mma.h"

/// Eight integers as bf16, exactly: their lower seven bits with the exponent of 128, from which 128 is taken away, or 256 where
/// the integer is negative.
DEVICE uint32_t int8_pair_to_bf16(uint32_t pair) {
  return add_bf16_pairs((pair & 0x007f007fu) | 0x43004300u, (pair & 0x00800080u) | 0xc300c300u);
}
DEVICE uint4 int8_to_bf16(const uint2 &x) {
  return {int8_pair_to_bf16(lower_bytes(x.x)), int8_pair_to_bf16(upper_bytes(x.x)), int8_pair_to_bf16(lower_bytes(x.y)),
          int8_pair_to_bf16(upper_bytes(x.y))};
}

/// Integers with a scale for each step of a row, by which a step's products are multiplied.
struct Int8Weights {
  struct Row {
    const int8_t *values;
    const uint16_t *double_scales;
  };
  struct Eight {
    uint2 values;
    uint16_t double_scale;
  };
  DEVICE Row of_row(const Layer &layer, uint32_t row, uint32_t cols) {
    return {static_cast<const int8_t *>(layer.weight) + (size_t)row * cols, layer.double_scales + (size_t)row * ((cols + STEP - 1) / STEP)};
  }
  /// Zeros past the last column. The scale is that of all columns of the step, whichever of them the lane has.
  DEVICE Eight load(const Row &row, uint32_t col, uint32_t cols) {
    const uint32_t step = col / STEP;
    return {stream_8(row.values + col, col < cols), step * STEP < cols ? row.double_scales[step] : (uint16_t)0};
  }
  DEVICE uint4 to_bf16(const Eight &x) { return int8_to_bf16(x.values); }
  /// Rows g and g + 8 of the products are those of the lane's own weights.
  template <class AddProducts>
  DEVICE void add(float (&sum)[4], const Eight (&w)[2], const AddProducts &add_products) {
    float products[4] = {};
    add_products(products);
    const float scales[2] = {f16_to_f32(w[0].double_scale) / 2, f16_to_f32(w[1].double_scale) / 2};
#pragma unroll
    for (int i = 0; i < 4; i++) sum[i] += products[i] * scales[i / 2];
  }
};

/// `y = x @ weight^T + bias`, x rounded to bf16. Grid: the tiles of all layers.
KERNEL_OF(THREADS, 2) void int8_mma_8(const MmaArgs args) {
  SHARED(MmaShared<1>, shared);
  multiply<Int8Weights, 1, 1, 6, float>(args, shared);
}
KERNEL_OF(THREADS, 2) void int8_mma_16(const MmaArgs args) {
  SHARED(MmaShared<2>, shared);
  multiply<Int8Weights, 2, 1, 5, uint16_t>(args, shared);
}
KERNEL_OF(THREADS, 1) void int8_mma_32(const MmaArgs args) {
  SHARED(MmaShared<4>, shared);
  multiply<Int8Weights, 4, 2, 4, uint16_t>(args, shared);
}
KERNEL_OF(THREADS, 1) void int8_mma_64(const MmaArgs args) {
  SHARED(MmaShared<8>, shared);
  multiply<Int8Weights, 8, 2, 2, uint16_t>(args, shared);
}

struct WidenInt8Args {
  const int8_t *values;           // [rows, cols]
  const uint16_t *double_scales;  // f16 [rows, cols / 32]
  uint16_t *wide;                 // bf16 [rows, cols]
  uint32_t cols;                  // a multiple of 8
};

/// Rounds the weights to bf16. Grid [rows, cols / (8 * threads)].
KERNEL void widen_int8_bf16(const WidenInt8Args args) {
  await_previous();
  const uint32_t row = blockIdx.x, col = 8 * (blockIdx.y * blockDim.x + threadIdx.x);
  if (col >= args.cols) return;
  const size_t at = (size_t)row * args.cols + col;
  const float scale = f16_to_f32(args.double_scales[(size_t)row * ((args.cols + STEP - 1) / STEP) + col / STEP]) / 2;
  const uint4 x = int8_to_bf16(stream_8(args.values + at));
  const auto scaled = [&](uint32_t pair) { return pack_bf16(low_bf16(pair) * scale, high_bf16(pair) * scale); };
  *reinterpret_cast<uint4 *>(args.wide + at) = {scaled(x.x), scaled(x.y), scaled(x.z), scaled(x.w)};
}

TWIN(int8_mma_8, MmaArgs)
TWIN(int8_mma_16, MmaArgs)
TWIN(int8_mma_32, MmaArgs)
TWIN(int8_mma_64, MmaArgs)
TWIN(widen_int8_bf16, WidenInt8Args)
