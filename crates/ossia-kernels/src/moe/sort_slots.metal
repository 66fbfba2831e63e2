// Sorts the slots of a batch by expert, in order of slots within each: one threadgroup, a thread per expert.

#include "../metal/prelude.h"

#define SORT_MAX_EXPERTS 128

struct SortSlotsArgs {
  uint num_slots;
  uint num_experts;  // at most SORT_MAX_EXPERTS
};

struct SortSlotsShared {
  uint counts[SORT_MAX_EXPERTS];
};

/// experts `[num_slots]` to starts `[num_experts + 1]`, where each expert's slots begin, and sorted `[num_slots]`.
kernel void sort_slots_u32(device const uint *experts, device uint *starts, device uint *sorted,
                           constant SortSlotsArgs &args, uint3 group [[threadgroup_position_in_grid]],
                           uint index [[thread_index_in_threadgroup]]) {
  SHARED(SortSlotsShared, shared);
  uint count = 0;
  for (uint slot = 0; slot < args.num_slots; slot++) count += experts[slot] == index;
  shared.counts[index] = count;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (index >= args.num_experts) return;
  uint at = 0;
  for (uint expert = 0; expert < index; expert++) at += shared.counts[expert];
  starts[index] = at;
  if (index + 1 == args.num_experts) starts[args.num_experts] = at + count;
  for (uint slot = 0; slot < args.num_slots; slot++)
    if (experts[slot] == index) sorted[at++] = slot;
}

TWIN(sort_slots_u32)
