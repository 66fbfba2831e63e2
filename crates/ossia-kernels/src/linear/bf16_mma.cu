// Linear layers of up to 64 tokens with weights in bf16.

#include "mma.h"

/// Weights that are multiplied as they are.
struct Bf16Weights {
  using Row = const uint16_t *;
  /// Eight neighbours as they are stored.
  using Eight = uint4;
  DEVICE Row of_row(const Layer &layer, uint32_t row, uint32_t cols) {
    return static_cast<const uint16_t *>(layer.weight) + (size_t)row * cols;
  }
  /// Zeros past the last column.
  DEVICE Eight load(Row row, uint32_t col, uint32_t cols) { return stream_16(row + col, col < cols); }
  DEVICE uint4 to_bf16(const Eight &x) { return x; }
  template <class AddProducts>
  DEVICE void add(float (&sum)[4], const Eight (&)[2], const AddProducts &add_products) {
    add_products(sum);
  }
};

/// `y = x @ weight^T + bias`, x rounded to bf16. Grid: the tiles of all layers.
KERNEL_OF(THREADS, 2) void bf16_mma_8(const MmaArgs args) {
  SHARED(MmaShared<1>, shared);
  multiply<Bf16Weights, 1, 1, 4, float>(args, shared);
}
KERNEL_OF(THREADS, 2) void bf16_mma_16(const MmaArgs args) {
  SHARED(MmaShared<2>, shared);
  multiply<Bf16Weights, 2, 1, 4, uint16_t>(args, shared);
}
KERNEL_OF(THREADS, 1) void bf16_mma_32(const MmaArgs args) {
  SHARED(MmaShared<4>, shared);
  multiply<Bf16Weights, 4, 2, 3, uint16_t>(args, shared);
}
KERNEL_OF(THREADS, 1) void bf16_mma_64(const MmaArgs args) {
  SHARED(MmaShared<8>, shared);
  multiply<Bf16Weights, 8, 2, 2, uint16_t>(args, shared);
}

TWIN(bf16_mma_8, MmaArgs)
TWIN(bf16_mma_16, MmaArgs)
TWIN(bf16_mma_32, MmaArgs)
TWIN(bf16_mma_64, MmaArgs)
