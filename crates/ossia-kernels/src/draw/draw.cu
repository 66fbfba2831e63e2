// Draws the next token of each row of logits where the logits are, so that a token comes back and not 201,088 numbers. Parts of
// a row are of a fixed length and their sums are added in order, so a row's token does not depend on the other rows.

#include "draw.h"

#define THREADS 256
// Logits of a thread, neighbours.
#define THREAD_LOGITS (PART_LEN / THREADS)

/// Strikes out the tokens that a row may not have: grid [n].
KERNEL void draw_forbid_f32(const DrawArgs args) {
  await_previous();
  float *logits = args.logits + (size_t)args.rows[blockIdx.x] * args.vocab;
  for (uint32_t i = args.starts[blockIdx.x] + threadIdx.x; i < args.starts[blockIdx.x + 1]; i += blockDim.x)
    if (args.forbidden[i] < args.vocab) logits[args.forbidden[i]] = -INFINITY;
}

/// Strikes out the tokens that a mask does not allow: grid [num_parts, m].
KERNEL void draw_mask_f32(const DrawArgs args) {
  await_previous();
  float *logits = args.logits + (size_t)args.rows[args.masked[blockIdx.y]] * args.vocab;
  const uint32_t *mask = args.masks + (size_t)blockIdx.y * ((args.vocab + 31) / 32);
  for (uint32_t i = threadIdx.x; i < PART_LEN; i += THREADS) {
    const uint32_t token = blockIdx.x * PART_LEN + i;
    if (token < args.vocab && !(mask[token / 32] >> token % 32 & 1)) logits[token] = -INFINITY;
  }
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
  if (is_filtered(args, row)) return;
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
TWIN(draw_mask_f32, DrawArgs)
TWIN(draw_parts_f32, DrawArgs)
TWIN(draw_token_f32, DrawArgs)
