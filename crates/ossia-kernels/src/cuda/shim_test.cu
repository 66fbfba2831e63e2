// A kernel for the tests of the shim itself: right, and with three mistakes.

#include "kernel.h"

struct ReverseArgs {
  uint32_t *out;  // [blocks, threads]
  uint32_t mistake;
};

struct ReverseShared {
  uint32_t values[1024];
};

KERNEL void reverse_warps_then_block(const ReverseArgs args) {
  SHARED(ReverseShared, shared);
  const uint32_t thread = threadIdx.x, lane = thread % WARP_LANES;
  if (args.mistake == 2 && lane == 7) return;
  const uint32_t value = __shfl_sync(FULL_WARP, blockIdx.x * 1000 + thread, (int)(WARP_LANES - 1 - lane));
  shared.values[thread] = value;
  if (args.mistake == 1 && thread == 40) return;
  if (args.mistake != 3) __syncthreads();
  args.out[blockIdx.x * blockDim.x + thread] = shared.values[blockDim.x - 1 - thread];
}

TWIN(reverse_warps_then_block, ReverseArgs)
