// RMSNorm, one block per row, with the residual sum before it where there is one.

#include "../cuda/kernel.h"

#define RMS_NORM_THREADS 256

struct RmsNormArgs {
  const float *x;         // [rows, width]
  const float *residual;  // [rows, width], or null
  const float *weight;    // [width]
  float *sum;             // [rows, width]: x + residual; unused without a residual
  float *out;             // [rows, width]
  uint32_t width;
  float eps;
};

// Vectors of four values that a thread keeps in registers, so that all of them are loaded at once.
#define KEPT 3

struct RmsNormShared {
  float sums[WARP_LANES];
};

DEVICE float4 add(const float4 &a, const float4 &b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }
DEVICE float dot(const float4 &a, const float4 &b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }
DEVICE const float4 *vectors(const float *x) { return reinterpret_cast<const float4 *>(x); }

/// A value of the row, summed with the residual if there is one.
DEVICE float value_at(const RmsNormArgs &args, size_t at) {
  return args.residual ? args.x[at] + args.residual[at] : args.x[at];
}

/// `out = weight * v / sqrt(mean(v^2) + eps)` with `v = x + residual`. Grid [rows].
KERNEL_OF(RMS_NORM_THREADS, 2) void rms_norm_f32(const RmsNormArgs args) {
  SHARED(RmsNormShared, shared);
  const size_t at = (size_t)blockIdx.x * args.width;
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
  // A row is kept as far as it is vectors; what is beyond is read twice.
  const uint32_t num_vectors = args.width % 4 == 0 ? args.width / 4 : 0;
  const uint32_t first_other = 4 * (num_vectors < KEPT * RMS_NORM_THREADS ? num_vectors : KEPT * RMS_NORM_THREADS);

  float4 kept[KEPT] = {}, weights[KEPT] = {};
#pragma unroll
  for (uint32_t k = 0; k < KEPT; k++) {
    const uint32_t i = threadIdx.x + k * RMS_NORM_THREADS;
    if (i < num_vectors) weights[k] = vectors(args.weight)[i];
  }
  await_previous();
#pragma unroll
  for (uint32_t k = 0; k < KEPT; k++) {
    const uint32_t i = threadIdx.x + k * RMS_NORM_THREADS;
    if (i < num_vectors) kept[k] = vectors(args.x + at)[i];
  }
  if (args.residual)
#pragma unroll
    for (uint32_t k = 0; k < KEPT; k++) {
      const uint32_t i = threadIdx.x + k * RMS_NORM_THREADS;
      if (i < num_vectors) kept[k] = add(kept[k], vectors(args.residual + at)[i]);
    }
  float squares = 0;
#pragma unroll
  for (uint32_t k = 0; k < KEPT; k++) squares += dot(kept[k], kept[k]);
  for (uint32_t i = first_other + threadIdx.x; i < args.width; i += RMS_NORM_THREADS) {
    const float v = value_at(args, at + i);
    squares += v * v;
  }
  squares = warp_sum(squares);
  if (lane == 0) shared.sums[warp] = squares;
  __syncthreads();
  const float total = warp_sum(lane < RMS_NORM_THREADS / WARP_LANES ? shared.sums[lane] : 0.0f);
  const float scale = 1.0f / sqrtf(total / (float)args.width + args.eps);
#pragma unroll
  for (uint32_t k = 0; k < KEPT; k++) {
    const uint32_t i = threadIdx.x + k * RMS_NORM_THREADS;
    if (i >= num_vectors) continue;
    const float4 &v = kept[k], &w = weights[k];
    if (args.residual) reinterpret_cast<float4 *>(args.sum + at)[i] = v;
    reinterpret_cast<float4 *>(args.out + at)[i] = {w.x * (v.x * scale), w.y * (v.y * scale), w.z * (v.z * scale),
                                                    w.w * (v.w * scale)};
  }
  for (uint32_t i = first_other + threadIdx.x; i < args.width; i += RMS_NORM_THREADS) {
    const float v = value_at(args, at + i);
    if (args.residual) args.sum[at + i] = v;
    args.out[at + i] = args.weight[i] * (v * scale);
  }
}

TWIN(rms_norm_f32, RmsNormArgs)
