// Which experts each token visits and with which weight: the largest logits, softmax over those; a simdgroup per token.

#include "../metal/prelude.h"

// Logits of a lane: 128 experts fit.
#define ROUTER_LANE_LOGITS 4
#define ROUTER_SIMDGROUPS 4

struct RouterArgs {
  uint num_tokens;
  uint num_experts;  // at most 128
  uint top_k;        // at most 32
};

/// Orders like the logits; NaN comes above everything and both zeros are the same.
inline int router_rank(float logit) {
  const uint bits = as_type<uint>(logit);
  const uint magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fffffff;
  return bits >> 31 ? -int(magnitude) : int(magnitude);
}

/// The better of two candidates: the larger rank, of equal ones the lower index.
inline bool router_better(int rank_a, uint a, int rank_b, uint b) {
  return rank_a > rank_b || (rank_a == rank_b && a < b);
}

/// logits `[n, num_experts]` to experts and weights `[n, top_k]`, best first. Grid [n / ROUTER_SIMDGROUPS].
kernel void router_top_k_f32(device const float *logits, device uint *experts, device float *weights,
                             constant RouterArgs &args, uint3 group [[threadgroup_position_in_grid]],
                             uint index [[thread_index_in_threadgroup]]) {
  const uint lane = index % SIMD_LANES, token = group.x * ROUTER_SIMDGROUPS + index / SIMD_LANES;
  if (token >= args.num_tokens) return;
  device const float *row = logits + ulong(token) * args.num_experts;

  const uint none = 0xffffffffu;
  uint taken = 0;  // a bit per logit of this lane
  float chosen_logit = 0;
  uint chosen_expert = 0;
  for (uint k = 0; k < args.top_k; k++) {
    int best_rank = 0;
    uint best = none;
    for (uint i = 0; i < ROUTER_LANE_LOGITS; i++) {
      const uint expert = lane + i * SIMD_LANES;
      if (expert >= args.num_experts || (taken >> i & 1u)) continue;
      const int rank = router_rank(row[expert]);
      if (best == none || router_better(rank, expert, best_rank, best)) {
        best_rank = rank;
        best = expert;
      }
    }
    for (ushort lanes = SIMD_LANES / 2; lanes > 0; lanes /= 2) {
      const int other_rank = simd_shuffle_xor(best_rank, lanes);
      const uint other = simd_shuffle_xor(best, lanes);
      if (other != none && (best == none || router_better(other_rank, other, best_rank, best))) {
        best_rank = other_rank;
        best = other;
      }
    }
    if (best % SIMD_LANES == lane) taken |= 1u << best / SIMD_LANES;
    // Lane k keeps the k-th choice.
    if (lane == k) {
      chosen_expert = best;
      chosen_logit = row[best];
    }
  }
  const float max = simd_shuffle(chosen_logit, ushort(0));
  const float share = lane < args.top_k ? exp(chosen_logit - max) : 0.0f;
  const float sum = simd_sum(share);
  if (lane < args.top_k) {
    experts[ulong(token) * args.top_k + lane] = chosen_expert;
    weights[ulong(token) * args.top_k + lane] = share / sum;
  }
}

TWIN(router_top_k_f32)
