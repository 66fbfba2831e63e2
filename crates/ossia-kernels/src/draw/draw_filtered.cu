// Draws the next token of each row that has filters, a block a row. Nothing is sorted: top_k's last token is found by bisection
// over the bits of a logit, and a token that top_p's nucleus does not hold is drawn again among those that rank up to it, as
// ossia-engine's sampler does on the CPU.

#include "draw.h"

#define THREADS 1024
#define WARPS (THREADS / WARP_LANES)
// Logits that a warp weighs at a time, eight neighbours a lane; a row has no more chunks than the block has threads.
#define CHUNK_LEN 256
#define LANE_LOGITS (CHUNK_LEN / WARP_LANES)
#define LEAST_LOGIT (-3.402823466e+38f)

struct FilterShared {
  DrawShared all;
  float chunk_max[THREADS];
  double chunk_sum[THREADS];
  float bound;
};

struct Row {
  const float *logits;
  uint32_t vocab;
  uint32_t num_chunks;
  float max;
  float scale;
};

/// The last token that is kept, by rank: higher logits first, of equals lower ids.
struct Cutoff {
  float logit;
  uint32_t token;
};

DEVICE bool reaches(float logit, uint32_t token, const Cutoff &cutoff) {
  return logit > cutoff.logit || (logit == cutoff.logit && token <= cutoff.token);
}

/// Bits in the order of the numbers, and back; both zeros are one.
DEVICE uint32_t ordered(float x) {
  const uint32_t bits = bits_of(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
DEVICE float of_ordered(uint32_t bits) { return float_of(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits); }

/// The next number of SplitMix64, in [0, 1): `Uniforms` of uniforms.rs.
DEVICE double next_uniform(uint64_t &state) {
  uint64_t z = state += 0x9e3779b97f4a7c15ull;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return (double)((z ^ z >> 31) >> 11) * 1.1102230246251565e-16;
}

/// Weighs the logits of the chunks that have one of at least `bound`: leaves each chunk's sum in `chunk_sum`, and returns the sum
/// of the chunks before that of the thread's number, and of all.
template <class Weight>
DEVICE Sums weigh(FilterShared &shared, const Row &row, float bound, const Weight &weight) {
  const uint32_t lane = threadIdx.x % WARP_LANES;
  __syncthreads();
  for (uint32_t chunk = threadIdx.x / WARP_LANES; chunk < row.num_chunks; chunk += WARPS) {
    double sum = 0;
    if (shared.chunk_max[chunk] >= bound) {
#pragma unroll
      for (uint32_t i = 0; i < LANE_LOGITS; i++) {
        const uint32_t token = chunk * CHUNK_LEN + lane * LANE_LOGITS + i;
        if (token < row.vocab) sum += weight(row.logits[token], token);
      }
    }
    sum = sum_up_to(sum);
    if (lane == WARP_LANES - 1) shared.chunk_sum[chunk] = sum;
  }
  __syncthreads();
  return block_sums(shared.all, threadIdx.x < row.num_chunks ? shared.chunk_sum[threadIdx.x] : 0);
}

/// The token into whose weight `target` falls, in the order of ids: the last one with a weight before which no more than that
/// lies. `sums` are of the same weights.
template <class Weight>
DEVICE uint32_t token_at(FilterShared &shared, const Row &row, const Sums &sums, double target, const Weight &weight) {
  const bool starts_before = threadIdx.x < row.num_chunks && shared.chunk_sum[threadIdx.x] > 0 && sums.before <= target;
  const uint32_t chunk = block_largest(shared.all, starts_before ? threadIdx.x : 0);
  double before = block_sums(shared.all, threadIdx.x == chunk ? sums.before : 0).all;
  // Every warp does the same.
  const uint32_t first = chunk * CHUNK_LEN + threadIdx.x % WARP_LANES * LANE_LOGITS;
  double weights[LANE_LOGITS], own = 0;
#pragma unroll
  for (uint32_t i = 0; i < LANE_LOGITS; i++) {
    weights[i] = first + i < row.vocab ? weight(row.logits[first + i], first + i) : 0;
    own += weights[i];
  }
  before += sum_up_to(own) - own;
  uint32_t token = 0;
#pragma unroll
  for (uint32_t i = 0; i < LANE_LOGITS; i++) {
    if (weights[i] > 0 && before <= target) token = first + i;
    before += weights[i];
  }
  return warp_largest(token);
}

/// The `k`-th of the tokens that reach `cutoff`; `cutoff` if there are fewer.
DEVICE Cutoff top_k(FilterShared &shared, const Row &row, uint32_t k, const Cutoff &cutoff) {
  float bound = cutoff.logit;
  if (k <= row.num_chunks) {
    // At least k tokens reach the k-th of the chunks' largest.
    const float own = threadIdx.x < row.num_chunks ? shared.chunk_max[threadIdx.x] : -INFINITY;
    uint32_t rank = 0;
    for (uint32_t i = 0; i < row.num_chunks; i++)
      rank += shared.chunk_max[i] > own || (shared.chunk_max[i] == own && i < threadIdx.x);
    if (threadIdx.x < row.num_chunks && rank == k - 1) shared.bound = own;
    __syncthreads();
    bound = fmaxf(bound, shared.bound);
  }
  const auto count = [&](uint32_t least) {
    const auto is_counted = [&](float logit, uint32_t token) -> double {
      return ordered(logit) >= least && reaches(logit, token, cutoff) ? 1 : 0;
    };
    return weigh(shared, row, bound, is_counted).all;
  };
  uint32_t low = ordered(bound), high = ordered(row.max);
  if (count(low) < k) return cutoff;
  while (low < high) {
    const uint32_t middle = low + (high - low + 1) / 2;
    if (count(middle) >= k)
      low = middle;
    else
      high = middle - 1;
  }
  // Of those as probable as the k-th the first ones, by id.
  const auto is_equal = [&](float logit, uint32_t token) -> double {
    return ordered(logit) == low && reaches(logit, token, cutoff) ? 1 : 0;
  };
  const double above = count(low + 1);
  const Sums equals = weigh(shared, row, bound, is_equal);
  return {of_ordered(low), token_at(shared, row, equals, k - 1 - above, is_equal)};
}

/// Grid [n]; after the other kernels, which leave such rows out but for those that have no token.
KERNEL_OF(THREADS, 1) void draw_filtered_f32(const DrawArgs args) {
  SHARED(FilterShared, shared);
  await_previous();
  const uint32_t at = blockIdx.x;
  if (!is_filtered(args, at)) return;
  float max = threadIdx.x < args.num_parts ? args.part_max[(size_t)at * args.num_parts + threadIdx.x] : -INFINITY;
  uint32_t place = threadIdx.x;
  block_max(shared.all, max, place);
  if (max != max || max == INFINITY || max == -INFINITY) return;
  const Row row = {args.logits + (size_t)args.rows[at] * args.vocab, args.vocab, (args.vocab + CHUNK_LEN - 1) / CHUNK_LEN, max,
                   args.scales[at]};

  for (uint32_t chunk = threadIdx.x / WARP_LANES; chunk < row.num_chunks; chunk += WARPS) {
    float largest = -INFINITY;
#pragma unroll
    for (uint32_t i = 0; i < LANE_LOGITS; i++) {
      const uint32_t token = chunk * CHUNK_LEN + i * WARP_LANES + threadIdx.x % WARP_LANES;
      if (token < row.vocab) largest = fmaxf(largest, row.logits[token]);
    }
    largest = warp_max(largest);
    if (threadIdx.x % WARP_LANES == 0) shared.chunk_max[chunk] = largest;
  }
  __syncthreads();

  Cutoff cutoff = {LEAST_LOGIT, 0xffffffffu};
  cutoff.logit = fmaxf(LEAST_LOGIT, fminf(max, max + args.min_logits[at]));
  if (args.top_ks[at] > 0) cutoff = top_k(shared, row, args.top_ks[at], cutoff);
  const auto kept = [&](float logit, uint32_t token) -> double {
    return reaches(logit, token, cutoff) ? mass(logit, row.max, row.scale) : 0;
  };
  Sums sums = weigh(shared, row, cutoff.logit, kept);
  const double nucleus = args.top_ps[at] * sums.all;
  double uniform = args.uniforms[at];
  uint64_t state = args.redraws[at];
  uint32_t token;
  while (true) {
    token = token_at(shared, row, sums, uniform * sums.all, kept);
    if (args.top_ps[at] >= 1) break;
    cutoff = {row.logits[token], token};
    sums = weigh(shared, row, cutoff.logit, kept);
    if (sums.all - mass(cutoff.logit, row.max, row.scale) < nucleus) break;
    uniform = next_uniform(state);
  }
  if (threadIdx.x == 0) args.tokens[at] = token;
}

TWIN(draw_filtered_f32, DrawArgs)
