// RMSNorm, one block per row, with the residual sum before it where there is one.

#include "../cuda/kernel.h"

struct RmsNormArgs {
  const float *x;         // [rows, width]
  const float *residual;  // [rows, width], or null
  const float *weight;    // [width]
  float *sum;             // [rows, width]: x + residual; unused without a residual
  float *out;             // [rows, width]
  uint32_t width;
  float eps;
};

struct RmsNormShared {
  float sums[WARP_LANES];
};

/// `out = weight * v / sqrt(mean(v^2) + eps)` with `v = x + residual`.
KERNEL void rms_norm_f32(const RmsNormArgs args) {
  SHARED(RmsNormShared, shared);
  const size_t at = (size_t)blockIdx.x * args.width;
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;

  float squares = 0;
  for (uint32_t i = threadIdx.x; i < args.width; i += blockDim.x) {
    float v = args.x[at + i];
    if (args.residual) {
      v += args.residual[at + i];
      args.sum[at + i] = v;
    }
    squares += v * v;
  }
  squares = warp_sum(squares);
  if (lane == 0) shared.sums[warp] = squares;
  __syncthreads();
  const uint32_t num_warps = blockDim.x / WARP_LANES;
  const float total = warp_sum(lane < num_warps ? shared.sums[lane] : 0.0f);

  // Each thread reads back only what it wrote itself.
  const float *v = args.residual ? args.sum : args.x;
  const float scale = 1.0f / sqrtf(total / (float)args.width + args.eps);
  for (uint32_t i = threadIdx.x; i < args.width; i += blockDim.x)
    args.out[at + i] = args.weight[i] * (v[at + i] * scale);
}

TWIN(rms_norm_f32, RmsNormArgs)
