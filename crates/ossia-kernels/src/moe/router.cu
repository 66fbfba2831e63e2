// Which experts each token visits and with which weight: the largest logits, softmax over those; a warp per token.

#include "../cuda/kernel.h"

// Logits of a lane: 128 experts fit.
#define LANE_LOGITS 4

struct RouterArgs {
  const float *logits;  // [n, num_experts]
  uint32_t *experts;    // [n, top_k], best first
  float *weights;       // [n, top_k]
  uint32_t num_tokens;
  uint32_t num_experts;  // at most 128
  uint32_t top_k;        // at most 32
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

KERNEL void router_top_k_f32(const RouterArgs args) {
  const uint32_t lane = threadIdx.x % WARP_LANES;
  const uint32_t token = blockIdx.x * (blockDim.x / WARP_LANES) + threadIdx.x / WARP_LANES;
  if (token >= args.num_tokens) return;
  const float *logits = args.logits + (size_t)token * args.num_experts;

  uint32_t taken = 0;  // a bit per logit of this lane
  float chosen_logit = 0;
  uint32_t chosen_expert = 0;
  for (uint32_t k = 0; k < args.top_k; k++) {
    int32_t best_rank = (int32_t)0x80000000u;
    uint32_t best = 0xffffffffu;
    for (uint32_t i = 0; i < LANE_LOGITS; i++) {
      const uint32_t expert = lane + i * WARP_LANES;
      if (expert >= args.num_experts || taken >> i & 1) continue;
      const int32_t r = rank(logits[expert]);
      if (best == 0xffffffffu || better(r, expert, best_rank, best)) best_rank = r, best = expert;
    }
    for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
      const int32_t other_rank = __shfl_xor_sync(FULL_WARP, best_rank, lanes);
      const uint32_t other = __shfl_xor_sync(FULL_WARP, best, lanes);
      if (other != 0xffffffffu && (best == 0xffffffffu || better(other_rank, other, best_rank, best)))
        best_rank = other_rank, best = other;
    }
    if (best % WARP_LANES == lane) taken |= 1u << best / WARP_LANES;
    // Lane k keeps the k-th choice.
    if (lane == k) chosen_expert = best, chosen_logit = logits[best];
  }
  const float max = __shfl_sync(FULL_WARP, chosen_logit, 0);
  const float exp = lane < args.top_k ? expf(chosen_logit - max) : 0.0f;
  const float sum = warp_sum(exp);
  if (lane < args.top_k) {
    args.experts[(size_t)token * args.top_k + lane] = chosen_expert;
    args.weights[(size_t)token * args.top_k + lane] = exp / sum;
  }
}

TWIN(router_top_k_f32, RouterArgs)
