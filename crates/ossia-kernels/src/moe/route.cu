// Which experts each token visits and with which weight, the slots sorted by expert and cut into tiles, and the activations
// as the experts' kernels take them. A slot is one of a token's choices.

#include "mxfp4.h"

#define MAX_EXPERTS 128
#define ROUTE_THREADS 1024
// Loads of a lane that are under way together while slots are sorted.
#define SORT_AHEAD 8
// Logits of a lane.
#define LANE_LOGITS (MAX_EXPERTS / WARP_LANES)

struct RouteArgs {
  const float *logits;  // [num_tokens, num_experts]
  const float *x;       // [num_tokens, cols]
  uint32_t *experts;    // [num_tokens, top_k], best first
  float *shares;        // [num_tokens, top_k]: weight of each in the sum
  uint32_t *sorted;     // [num_tokens * top_k]: slots, those of expert 0 first, each expert's in order
  SlotTile *tiles;      // [num_tiles], those past the last one empty
  uint16_t *packed_x;   // bf16 [num_tokens, cols], in the order of `place_of`
  uint32_t num_tokens;
  uint32_t num_experts;  // at most MAX_EXPERTS
  uint32_t top_k;        // at most 32
  uint32_t cols;         // a multiple of 8
  uint32_t tile_slots;   // most slots of a tile
  uint32_t num_tiles;    // enough for any choice of experts
};

struct RouteShared {
  uint32_t counts[MAX_EXPERTS];
  uint32_t starts[MAX_EXPERTS];
  uint32_t first_tiles[MAX_EXPERTS + 1];
};

/// Orders like the logits; NaN comes above everything and both zeros are the same.
DEVICE int32_t rank(float logit) {
  if (logit != logit) return 0x7fffffff;
  const int32_t bits = (int32_t)bits_of(logit + 0.0f);
  return bits < 0 ? (int32_t)(0x80000000u - (uint32_t)bits) : bits;
}

/// The better of two candidates: the larger rank, of equal ones the lower index.
DEVICE bool better(int32_t rank_a, uint32_t a, int32_t rank_b, uint32_t b) {
  return rank_a > rank_b || (rank_a == rank_b && a < b);
}

/// A warp chooses one token's experts: the largest logits, softmax over those.
DEVICE void choose(const RouteArgs &args, uint32_t token) {
  const uint32_t lane = threadIdx.x % WARP_LANES;
  const float *logits = args.logits + (size_t)token * args.num_experts;
  int32_t ranks[LANE_LOGITS];
#pragma unroll
  for (int i = 0; i < LANE_LOGITS; i++) {
    const uint32_t expert = lane + i * WARP_LANES;
    ranks[i] = expert < args.num_experts ? rank(logits[expert]) : 0;
  }
  uint32_t taken = 0;  // a bit per logit of this lane
  uint32_t chosen = 0;
  for (uint32_t k = 0; k < args.top_k; k++) {
    int32_t best_rank = (int32_t)0x80000000u;
    uint32_t best = 0xffffffffu;
#pragma unroll
    for (int i = 0; i < LANE_LOGITS; i++) {
      const uint32_t expert = lane + i * WARP_LANES;
      if (expert >= args.num_experts || taken >> i & 1) continue;
      if (best == 0xffffffffu || better(ranks[i], expert, best_rank, best)) best_rank = ranks[i], best = expert;
    }
    for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
      const int32_t other_rank = __shfl_xor_sync(FULL_WARP, best_rank, lanes);
      const uint32_t other = __shfl_xor_sync(FULL_WARP, best, lanes);
      if (other != 0xffffffffu && (best == 0xffffffffu || better(other_rank, other, best_rank, best)))
        best_rank = other_rank, best = other;
    }
    if (best % WARP_LANES == lane) taken |= 1u << best / WARP_LANES;
    // Lane k keeps the k-th choice.
    if (lane == k) chosen = best;
  }
  const float logit = lane < args.top_k ? logits[chosen] : 0.0f;
  const float max = __shfl_sync(FULL_WARP, logit, 0);
  const float exp = lane < args.top_k ? expf(logit - max) : 0.0f;
  const float sum = warp_sum(exp);
  if (lane < args.top_k) {
    args.experts[(size_t)token * args.top_k + lane] = chosen;
    args.shares[(size_t)token * args.top_k + lane] = exp / sum;
  }
}

/// Sums of the values of all lanes up to each.
DEVICE uint32_t sum_up_to(uint32_t x) {
  const int lane = threadIdx.x % WARP_LANES;
  for (int distance = 1; distance < WARP_LANES; distance *= 2) {
    const uint32_t below = __shfl_sync(FULL_WARP, x, lane >= distance ? lane - distance : lane);
    if (lane >= distance) x += below;
  }
  return x;
}

/// Where each expert's slots and tiles begin, from the counts; by the first warp.
DEVICE void find_starts(const RouteArgs &args, RouteShared &shared) {
  const uint32_t lane = threadIdx.x;
  uint32_t slots = 0, tiles = 0;
  for (uint32_t first = 0; first < args.num_experts; first += WARP_LANES) {
    const uint32_t expert = first + lane, count = expert < args.num_experts ? shared.counts[expert] : 0;
    const uint32_t tiled = (count + args.tile_slots - 1) / args.tile_slots;
    const uint32_t slots_to = slots + sum_up_to(count), tiles_to = tiles + sum_up_to(tiled);
    if (expert < args.num_experts) {
      shared.starts[expert] = slots_to - count;
      shared.first_tiles[expert] = tiles_to - tiled;
    }
    slots = __shfl_sync(FULL_WARP, slots_to, WARP_LANES - 1);
    tiles = __shfl_sync(FULL_WARP, tiles_to, WARP_LANES - 1);
  }
  if (lane == 0) shared.first_tiles[args.num_experts] = tiles;
}

/// One block sorts the slots: a warp has an expert at a time.
DEVICE void sort(const RouteArgs &args, RouteShared &shared) {
  const uint32_t warp = threadIdx.x / WARP_LANES, lane = threadIdx.x % WARP_LANES;
  const uint32_t num_warps = blockDim.x / WARP_LANES, num_slots = args.num_tokens * args.top_k;
  // Which of so many times 32 slots from `first` on visit an expert, loaded together.
  const auto votes = [&](uint32_t first, uint32_t expert, uint32_t(&bits)[SORT_AHEAD]) {
    uint32_t experts[SORT_AHEAD];
#pragma unroll
    for (uint32_t i = 0; i < SORT_AHEAD; i++) {
      const uint32_t slot = first + i * WARP_LANES + lane;
      experts[i] = slot < num_slots ? args.experts[slot] : 0xffffffffu;
    }
#pragma unroll
    for (uint32_t i = 0; i < SORT_AHEAD; i++) bits[i] = __ballot_sync(FULL_WARP, experts[i] == expert);
  };
  uint32_t bits[SORT_AHEAD];
  for (uint32_t expert = warp; expert < args.num_experts; expert += num_warps) {
    uint32_t count = 0;
    for (uint32_t first = 0; first < num_slots; first += SORT_AHEAD * WARP_LANES) {
      votes(first, expert, bits);
#pragma unroll
      for (uint32_t i = 0; i < SORT_AHEAD; i++) count += __popc(bits[i]);
    }
    if (lane == 0) shared.counts[expert] = count;
  }
  __syncthreads();
  if (warp == 0) find_starts(args, shared);
  __syncthreads();
  for (uint32_t expert = warp; expert < args.num_experts; expert += num_warps) {
    const uint32_t start = shared.starts[expert], count = shared.counts[expert];
    const uint32_t first_tile = shared.first_tiles[expert], tiles = shared.first_tiles[expert + 1] - first_tile;
    uint32_t next = start;
    for (uint32_t first = 0; first < num_slots && next < start + count; first += SORT_AHEAD * WARP_LANES) {
      votes(first, expert, bits);
#pragma unroll
      for (uint32_t i = 0; i < SORT_AHEAD; i++) {
        if (bits[i] >> lane & 1) args.sorted[next + __popc(bits[i] & ((1u << lane) - 1))] = first + i * WARP_LANES + lane;
        next += __popc(bits[i]);
      }
    }
    for (uint32_t i = lane; i < tiles; i += WARP_LANES) {
      const uint32_t left = count - i * args.tile_slots;
      args.tiles[first_tile + i] = {expert, start + i * args.tile_slots, left < args.tile_slots ? left : args.tile_slots, 0};
    }
  }
  for (uint32_t i = shared.first_tiles[args.num_experts] + threadIdx.x; i < args.num_tiles; i += blockDim.x)
    args.tiles[i] = {0, 0, 0, 0};
}

/// A block rounds one token's activations to bf16.
DEVICE void pack(const RouteArgs &args, size_t token) {
  const float *x = args.x + token * args.cols;
  uint4 *packed = reinterpret_cast<uint4 *>(args.packed_x + token * args.cols);
  for (uint32_t i = threadIdx.x; i < args.cols / 8; i += blockDim.x) {
    const float4 a = reinterpret_cast<const float4 *>(x)[2 * i], b = reinterpret_cast<const float4 *>(x)[2 * i + 1];
    packed[i] = {pack_bf16(a.x, b.x), pack_bf16(a.y, b.y), pack_bf16(a.z, b.z), pack_bf16(a.w, b.w)};
  }
}

/// Everything in one launch, for batches whose choices one block makes as fast as many: grid [1 + num_tokens].
KERNEL_OF(ROUTE_THREADS, 1) void route_f32(const RouteArgs args) {
  SHARED(RouteShared, shared);
  await_previous();
  if (blockIdx.x > 0) return pack(args, blockIdx.x - 1);
  for (uint32_t token = threadIdx.x / WARP_LANES; token < args.num_tokens; token += blockDim.x / WARP_LANES)
    choose(args, token);
  __syncthreads();
  sort(args, shared);
}

/// The same in two launches: grid [num_tokens], whose first warp chooses while all pack; then grid [1].
KERNEL void choose_and_pack_f32(const RouteArgs args) {
  await_previous();
  if (threadIdx.x < WARP_LANES) choose(args, blockIdx.x);
  pack(args, blockIdx.x);
}
KERNEL_OF(ROUTE_THREADS, 1) void sort_slots_u32(const RouteArgs args) {
  SHARED(RouteShared, shared);
  await_previous();
  sort(args, shared);
}

TWIN(route_f32, RouteArgs)
TWIN(choose_and_pack_f32, RouteArgs)
TWIN(sort_slots_u32, RouteArgs)
