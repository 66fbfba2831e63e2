// Sorts the slots of a batch by expert, in order of slots within each: one block, a warp per expert at a time.

#include "../cuda/kernel.h"

#define MAX_EXPERTS 128

struct SortSlotsArgs {
  const uint32_t *experts;  // [num_slots]: the expert of each
  uint32_t *starts;         // [num_experts + 1]: where each expert's slots begin in `sorted`
  uint32_t *sorted;         // [num_slots]: slots, those of expert 0 first
  uint32_t num_slots;
  uint32_t num_experts;  // at most 128
};

struct SortSlotsShared {
  uint32_t counts[MAX_EXPERTS];
  uint32_t starts[MAX_EXPERTS + 1];
};

KERNEL void sort_slots_u32(const SortSlotsArgs args) {
  SHARED(SortSlotsShared, shared);
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
  const uint32_t num_warps = blockDim.x / WARP_LANES;
  for (uint32_t expert = warp; expert < args.num_experts; expert += num_warps) {
    uint32_t count = 0;
    for (uint32_t first = 0; first < args.num_slots; first += WARP_LANES) {
      const uint32_t slot = first + lane;
      count += __popc(__ballot_sync(FULL_WARP, slot < args.num_slots && args.experts[slot] == expert));
    }
    if (lane == 0) shared.counts[expert] = count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t start = 0;
    for (uint32_t expert = 0; expert < args.num_experts; expert++) {
      shared.starts[expert] = start;
      start += shared.counts[expert];
    }
    shared.starts[args.num_experts] = start;
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i <= args.num_experts; i += blockDim.x) args.starts[i] = shared.starts[i];
  for (uint32_t expert = warp; expert < args.num_experts; expert += num_warps) {
    uint32_t next = shared.starts[expert];
    for (uint32_t first = 0; first < args.num_slots; first += WARP_LANES) {
      const uint32_t slot = first + lane;
      const bool here = slot < args.num_slots && args.experts[slot] == expert;
      const uint32_t bits = __ballot_sync(FULL_WARP, here);
      if (here) args.sorted[next + __popc(bits & ((1u << lane) - 1))] = slot;
      next += __popc(bits);
    }
  }
}

TWIN(sort_slots_u32, SortSlotsArgs)
