// RMSNorm, one threadgroup per row, with the residual sum before it where there is one.

#include "../metal/prelude.h"

#define RMS_NORM_THREADS 256

struct RmsNormArgs {
  uint width;
  uint has_residual;
  float eps;
};

struct RmsNormShared {
  float sums[SIMD_LANES];
};

/// `out = weight * v / sqrt(mean(v^2) + eps)` with `v = x + residual`, over `[rows, width]`; `sum` becomes `v` if there is
/// a residual.
kernel void rms_norm_f32(device const float *x, device const float *residual, device const float *weight,
                         device float *sum, device float *out, constant RmsNormArgs &args,
                         uint3 group [[threadgroup_position_in_grid]], uint index [[thread_index_in_threadgroup]]) {
  SHARED(RmsNormShared, shared);
  const ulong at = ulong(group.x) * args.width;
  const uint simdgroup = index / SIMD_LANES, lane = index % SIMD_LANES;

  float squares = 0;
  for (uint i = index; i < args.width; i += RMS_NORM_THREADS) {
    float v = x[at + i];
    if (args.has_residual) {
      v += residual[at + i];
      sum[at + i] = v;
    }
    squares += v * v;
  }
  squares = simd_sum(squares);
  if (lane == 0) shared.sums[simdgroup] = squares;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const float total = simd_sum(lane < RMS_NORM_THREADS / SIMD_LANES ? shared.sums[lane] : 0.0f);

  const float scale = 1.0f / sqrt(total / float(args.width) + args.eps);
  for (uint i = index; i < args.width; i += RMS_NORM_THREADS) {
    // Each thread reads back only what it wrote itself.
    const float v = args.has_residual ? sum[at + i] : x[at + i];
    out[at + i] = weight[i] * (v * scale);
  }
}

TWIN(rms_norm_f32)
