// What stands around a product of bf16 matrices: activations rounded to bf16 once for all that read them, and its results
// widened with the bias added.

#include "../cuda/kernel.h"

struct PackBf16Args {
  const float *x;  // [8 * count]
  uint4 *packed;   // bf16, the same
  uint64_t count;
};

/// Grid [count / threads].
KERNEL void pack_bf16_f32(const PackBf16Args args) {
  await_previous();
  const uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= args.count) return;
  const float4 a = reinterpret_cast<const float4 *>(args.x)[2 * i], b = reinterpret_cast<const float4 *>(args.x)[2 * i + 1];
  args.packed[i] = {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
}

struct AddBiasArgs {
  const uint32_t *products;  // bf16 [n, cols], two a word
  const float *bias;         // [cols], or null
  float *y;                  // [n, cols]
  uint32_t cols;             // even
};

/// Grid [cols / (2 * threads), n].
KERNEL void add_bias_bf16_f32(const AddBiasArgs args) {
  await_previous();
  const uint32_t col = 2 * (blockIdx.x * blockDim.x + threadIdx.x);
  if (col >= args.cols) return;
  const size_t at = (size_t)blockIdx.y * args.cols + col;
  const uint32_t pair = args.products[at / 2];
  float2 sum = {low_bf16(pair), high_bf16(pair)};
  if (args.bias) sum.x += args.bias[col], sum.y += args.bias[col + 1];
  *reinterpret_cast<float2 *>(args.y + at) = sum;
}

TWIN(pack_bf16_f32, PackBf16Args)
TWIN(add_bias_bf16_f32, AddBiasArgs)
