// What the kernels that draw tokens share: their arguments, and sums and maxima over a block.
#pragma once

#include "../cuda/kernel.h"

#define PART_LEN 2048
// Answers when there is no token.
#define NOT_FINITE 0xffffffffu
#define NOTHING_ALLOWED 0xfffffffeu
// Of the largest block.
#define MAX_WARPS 32

struct DrawArgs {
  float *logits;            // [.., vocab]; forbidden ones become minus infinity
  const double *uniforms;   // [n], each in [0, 1)
  const uint64_t *redraws;  // [n]: states of the generator of further ones
  const uint32_t *rows;     // [n]: which of the logits' rows
  const float *scales;      // [n]: 1 / temperature, or 0 for the most probable token
  const uint32_t *top_ks;   // [n]: so many of the most probable tokens are kept; 0: all
  const float *top_ps;      // [n]: of these the first ones that have this share of the mass
  const float *min_logits;  // [n]: and none so far from the largest logit, which is 0 here; -infinity: all
  const uint32_t *starts;   // [n + 1]: where each row's tokens begin in `forbidden`
  const uint32_t *forbidden;
  const uint32_t *masked;   // [m]: rows of the arrays above that have a mask
  const uint32_t *masks;    // [m, ceil(vocab / 32)]: bit t % 32 of word t / 32 is set where token t may be drawn
  float *part_max;          // [n, num_parts]
  uint32_t *part_argmax;    // [n, num_parts]
  double *part_sum;         // [n, num_parts]: of exp((logit - the part's largest) * scale)
  uint32_t *tokens;         // [n]
  uint32_t vocab;
  uint32_t num_parts;
};

struct DrawShared {
  float maxima[MAX_WARPS];
  uint32_t places[MAX_WARPS];
  double sums[MAX_WARPS];
};

/// Whether a row is for `draw_filtered.cu`.
DEVICE bool is_filtered(const DrawArgs &args, uint32_t row) {
  return args.top_ks[row] > 0 || args.top_ps[row] < 1 || args.min_logits[row] > -INFINITY;
}

/// The larger of two logits with their places, of equal ones the first; NaN above all.
DEVICE void keep_larger(float &max, uint32_t &place, float other, uint32_t other_place) {
  const bool larger = other > max || (other != other && max == max);
  if (larger || (other == max && other_place < place)) max = other, place = other_place;
}

/// The largest of all threads of the block and its place, in every thread.
DEVICE void block_max(DrawShared &shared, float &max, uint32_t &place) {
  for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
    const float other = __shfl_xor_sync(FULL_WARP, max, lanes);
    const uint32_t other_place = __shfl_xor_sync(FULL_WARP, place, lanes);
    keep_larger(max, place, other, other_place);
  }
  __syncthreads();
  if (threadIdx.x % WARP_LANES == 0) {
    shared.maxima[threadIdx.x / WARP_LANES] = max;
    shared.places[threadIdx.x / WARP_LANES] = place;
  }
  __syncthreads();
  for (uint32_t warp = 0; warp < blockDim.x / WARP_LANES; warp++) keep_larger(max, place, shared.maxima[warp], shared.places[warp]);
}

/// The largest of the values of a warp's lanes, in every lane.
DEVICE uint32_t warp_largest(uint32_t value) {
  for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
    const uint32_t other = __shfl_xor_sync(FULL_WARP, value, lanes);
    value = other > value ? other : value;
  }
  return value;
}

/// The largest of the values of all threads of the block, in every thread.
DEVICE uint32_t block_largest(DrawShared &shared, uint32_t value) {
  value = warp_largest(value);
  __syncthreads();
  if (threadIdx.x % WARP_LANES == 0) shared.places[threadIdx.x / WARP_LANES] = value;
  __syncthreads();
  for (uint32_t warp = 0; warp < blockDim.x / WARP_LANES; warp++) value = shared.places[warp] > value ? shared.places[warp] : value;
  return value;
}

/// The sum of the values of a warp's lanes up to this one.
DEVICE double sum_up_to(double value) {
  const int lane = threadIdx.x % WARP_LANES;
  for (int distance = 1; distance < WARP_LANES; distance *= 2) {
    const double below = __shfl_sync(FULL_WARP, value, lane >= distance ? lane - distance : lane);
    if (lane >= distance) value += below;
  }
  return value;
}

/// The sum of the values of threads before this one, and of all.
struct Sums {
  double before;
  double all;
};
DEVICE Sums block_sums(DrawShared &shared, double value) {
  const uint32_t warp = threadIdx.x / WARP_LANES;
  const int lane = threadIdx.x % WARP_LANES;
  const double up_to = sum_up_to(value);
  __syncthreads();
  if (lane == WARP_LANES - 1) shared.sums[warp] = up_to;
  __syncthreads();
  Sums sums = {up_to - value, 0};
  for (uint32_t i = 0; i < blockDim.x / WARP_LANES; i++) {
    if (i == warp) sums.before += sums.all;
    sums.all += shared.sums[i];
  }
  return sums;
}

/// Unnormalised probability; none of a logit of minus infinity, whatever the largest is.
DEVICE float mass(float logit, float max, float scale) { return logit == -INFINITY ? 0.0f : expf((logit - max) * scale); }
