// Draws the next token of each row of logits where the logits are, so that a token comes back and not 201,088 numbers. Parts of
// a row are of a fixed length and their sums are added in order, so a row's token does not depend on the other rows.

#include "../cuda/kernel.h"

// Logits of a part; a row has up to MAX_PARTS of them.
#define PART_LEN 2048
#define MAX_PARTS 128
#define THREADS 256
// Logits of a thread, neighbours.
#define THREAD_LOGITS (PART_LEN / THREADS)
#define WARPS (THREADS / WARP_LANES)
// Answers when there is no token.
#define NOT_FINITE 0xffffffffu
#define NOTHING_ALLOWED 0xfffffffeu

struct DrawArgs {
  float *logits;            // [.., vocab]; forbidden ones become minus infinity
  const double *uniforms;   // [n], each in [0, 1)
  const uint32_t *rows;     // [n]: which of the logits' rows
  const float *scales;      // [n]: 1 / temperature, or 0 for the most probable token
  const uint32_t *starts;   // [n + 1]: where each row's tokens begin in `forbidden`
  const uint32_t *forbidden;
  float *part_max;          // [n, num_parts]
  uint32_t *part_argmax;    // [n, num_parts]
  double *part_sum;         // [n, num_parts]: of exp((logit - the part's largest) * scale)
  uint32_t *tokens;         // [n]
  uint32_t vocab;
  uint32_t num_parts;
};

struct DrawShared {
  float maxima[WARPS];
  uint32_t places[WARPS];
  double sums[WARPS];
};

/// Strikes out the tokens that a row may not have: grid [n].
KERNEL void draw_forbid_f32(const DrawArgs args) {
  await_previous();
  float *logits = args.logits + (size_t)args.rows[blockIdx.x] * args.vocab;
  for (uint32_t i = args.starts[blockIdx.x] + threadIdx.x; i < args.starts[blockIdx.x + 1]; i += blockDim.x)
    if (args.forbidden[i] < args.vocab) logits[args.forbidden[i]] = -INFINITY;
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
  for (int warp = 0; warp < WARPS; warp++) keep_larger(max, place, shared.maxima[warp], shared.places[warp]);
}

/// The largest of the values of all threads of the block, in every thread.
DEVICE uint32_t block_largest(DrawShared &shared, uint32_t value) {
  for (int lanes = WARP_LANES / 2; lanes > 0; lanes /= 2) {
    const uint32_t other = __shfl_xor_sync(FULL_WARP, value, lanes);
    value = other > value ? other : value;
  }
  __syncthreads();
  if (threadIdx.x % WARP_LANES == 0) shared.places[threadIdx.x / WARP_LANES] = value;
  __syncthreads();
  for (int warp = 0; warp < WARPS; warp++) value = shared.places[warp] > value ? shared.places[warp] : value;
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
  double up_to = value;
  for (int distance = 1; distance < WARP_LANES; distance *= 2) {
    const double below = __shfl_sync(FULL_WARP, up_to, lane >= distance ? lane - distance : lane);
    if (lane >= distance) up_to += below;
  }
  __syncthreads();
  if (lane == WARP_LANES - 1) shared.sums[warp] = up_to;
  __syncthreads();
  Sums sums = {up_to - value, 0};
  for (uint32_t i = 0; i < WARPS; i++) {
    if (i == warp) sums.before += sums.all;
    sums.all += shared.sums[i];
  }
  return sums;
}

/// A thread's logits of a part, those past the end minus infinity.
DEVICE void load_part(const DrawArgs &args, uint32_t row, uint32_t part, float (&logits)[THREAD_LOGITS]) {
  const float *from = args.logits + (size_t)args.rows[row] * args.vocab;
#pragma unroll
  for (uint32_t i = 0; i < THREAD_LOGITS; i++) {
    const uint32_t token = part * PART_LEN + threadIdx.x * THREAD_LOGITS + i;
    logits[i] = token < args.vocab ? from[token] : -INFINITY;
  }
}

/// Unnormalised probability; none of a logit of minus infinity, whatever the largest is.
DEVICE float mass(float logit, float max, float scale) { return logit == -INFINITY ? 0.0f : expf((logit - max) * scale); }

/// The largest logit of each part and the sum of its masses: grid [num_parts, n].
KERNEL void draw_parts_f32(const DrawArgs args) {
  SHARED(DrawShared, shared);
  await_previous();
  const size_t at = (size_t)blockIdx.y * args.num_parts + blockIdx.x;
  float logits[THREAD_LOGITS];
  load_part(args, blockIdx.y, blockIdx.x, logits);
  float max = -INFINITY;
  uint32_t place = 0xffffffffu;
#pragma unroll
  for (uint32_t i = 0; i < THREAD_LOGITS; i++)
    keep_larger(max, place, logits[i], blockIdx.x * PART_LEN + threadIdx.x * THREAD_LOGITS + i);
  block_max(shared, max, place);
  float sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < THREAD_LOGITS; i++) sum += mass(logits[i], max, args.scales[blockIdx.y]);
  const Sums sums = block_sums(shared, sum);
  if (threadIdx.x > 0) return;
  args.part_max[at] = max;
  args.part_argmax[at] = place;
  args.part_sum[at] = sums.all;
}

/// The token of each row: the part that the uniform number falls into, then the token in it. Grid [n].
KERNEL void draw_token_f32(const DrawArgs args) {
  SHARED(DrawShared, shared);
  await_previous();
  const uint32_t row = blockIdx.x, num_parts = args.num_parts;
  const float *const maxima = args.part_max + (size_t)row * num_parts;
  float max = threadIdx.x < num_parts ? maxima[threadIdx.x] : -INFINITY;
  uint32_t best = threadIdx.x < num_parts ? args.part_argmax[(size_t)row * num_parts + threadIdx.x] : 0xffffffffu;
  block_max(shared, max, best);
  const float scale = args.scales[row];
  if (max != max || max == INFINITY || max == -INFINITY || scale == 0) {
    if (threadIdx.x == 0) args.tokens[row] = max == -INFINITY ? NOTHING_ALLOWED : max != max || max == INFINITY ? NOT_FINITE : best;
    return;
  }
  // Sums relative to the row's largest logit.
  const auto part_mass = [&](uint32_t part) {
    return part < num_parts && maxima[part] != -INFINITY
               ? args.part_sum[(size_t)row * num_parts + part] * expf((maxima[part] - max) * scale)
               : 0.0;
  };
  const Sums parts = block_sums(shared, part_mass(threadIdx.x));
  const double target = args.uniforms[row] * parts.all;
  // The last part, and in it the last token, whose sum before does not exceed the target and that has a mass: rounding
  // cannot leave a row without a token.
  const bool reaches = part_mass(threadIdx.x) > 0 && parts.before <= target;
  const uint32_t part = block_largest(shared, reaches ? threadIdx.x : 0);
  const double before_part = block_sums(shared, threadIdx.x == part ? parts.before : 0).all;

  float logits[THREAD_LOGITS];
  load_part(args, row, part, logits);
  float masses[THREAD_LOGITS], own = 0;
#pragma unroll
  for (uint32_t i = 0; i < THREAD_LOGITS; i++) own += masses[i] = mass(logits[i], max, scale);
  double before = before_part + block_sums(shared, own).before;
  uint32_t token = 0;
#pragma unroll
  for (uint32_t i = 0; i < THREAD_LOGITS; i++) {
    if (masses[i] > 0 && before <= target) token = part * PART_LEN + threadIdx.x * THREAD_LOGITS + i;
    before += masses[i];
  }
  token = block_largest(shared, token);
  if (threadIdx.x == 0) args.tokens[row] = token;
}

TWIN(draw_forbid_f32, DrawArgs)
TWIN(draw_parts_f32, DrawArgs)
TWIN(draw_token_f32, DrawArgs)
