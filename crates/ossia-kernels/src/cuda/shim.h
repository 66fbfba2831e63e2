// CUDA's execution model on one CPU thread, for tests. Each CUDA thread is a fiber with a stack of its own. A fiber runs
// until it waits at a barrier; a barrier opens when everybody it waits for has come, so a thread that never comes shows
// as an error instead of a hang. Blocks run one after the other over shared memory that is filled with NaN before each.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

#define KERNEL static
#define DEVICE static inline
#define __restrict__
#define SHARED(type, name) type &name = *static_cast<type *>(shim::shared_memory(sizeof(type)))
#define TWIN(kernel, args_type)                                                                                  \
  extern "C" int kernel##_twin(const args_type *args, unsigned x, unsigned y, unsigned z, unsigned threads) {    \
    return shim::launch([](const void *a) { kernel(*static_cast<const args_type *>(a)); }, args, {x, y, z}, threads); \
  }

struct dim3 {
  unsigned x, y, z;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};

namespace shim {

constexpr unsigned LANES = 32;
constexpr size_t STACK_BYTES = 64 << 10;
constexpr size_t SHARED_BYTES = 227 << 10;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Fiber {
  State state = State::done;
  bool started = false;
  ucontext_t start;
  jmp_buf place;
  std::vector<char> stack = std::vector<char>(STACK_BYTES);
  /// What this lane gives to the others of its warp.
  uint64_t given = 0;
  uint32_t fragment[6];
};

/// One launch at a time per process.
inline std::vector<Fiber> fibers;
inline unsigned current, num_threads;
inline dim3 block_index, grid_size;
inline jmp_buf scheduler;
inline void (*body)(const void *);
inline const void *arguments;
inline const char *failure;
alignas(16) inline unsigned char shared_bytes[SHARED_BYTES];

inline void *shared_memory(size_t bytes) {
  if (bytes > SHARED_BYTES) failure = "more shared memory than a block has";
  return shared_bytes;
}

/// Back to the scheduler until the barrier opens.
inline void wait_at(State barrier) {
  Fiber &fiber = fibers[current];
  fiber.state = barrier;
  if (_setjmp(fiber.place) == 0) _longjmp(scheduler, 1);
}

inline void run_fiber() {
  body(arguments);
  fibers[current].state = State::done;
  _longjmp(scheduler, 1);
}

inline void resume(unsigned thread) {
  current = thread;
  Fiber &fiber = fibers[thread];
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.place, 1);
  fiber.started = true;
  getcontext(&fiber.start);
  fiber.start.uc_stack.ss_sp = fiber.stack.data();
  fiber.start.uc_stack.ss_size = fiber.stack.size();
  makecontext(&fiber.start, run_fiber, 0);
  setcontext(&fiber.start);
}

/// Opens a barrier for threads `first..end` if all of them wait there.
inline bool open(State barrier, unsigned first, unsigned end) {
  for (unsigned t = first; t < end; t++)
    if (fibers[t].state != barrier) return false;
  for (unsigned t = first; t < end; t++) fibers[t].state = State::ready;
  return true;
}

inline void run_block() {
  memset(shared_bytes, 0xff, sizeof shared_bytes);
  for (Fiber &fiber : fibers) {
    fiber.started = false;
    fiber.state = State::ready;
  }
  // The order changes from barrier to barrier, so that what lacks a barrier shows.
  bool backwards = false;
  for (;;) {
    bool progress = false, all_done = true;
    for (unsigned i = 0; i < num_threads && !failure; i++) {
      unsigned t = backwards ? num_threads - 1 - i : i;
      if (fibers[t].state == State::ready) {
        resume(t);
        progress = true;
      }
      all_done = all_done && fibers[t].state == State::done;
    }
    if (failure || all_done) return;
    backwards = !backwards;
    for (unsigned warp = 0; warp < num_threads; warp += LANES)
      progress |= open(State::at_warp_barrier, warp, warp + LANES);
    progress |= open(State::at_block_barrier, 0, num_threads);
    if (!progress) failure = "threads wait at a barrier that others never reach";
  }
}

inline int launch(void (*kernel)(const void *), const void *args, dim3 grid, unsigned threads) {
  body = kernel;
  arguments = args;
  grid_size = grid;
  num_threads = threads;
  failure = threads % LANES == 0 && threads <= 1024 ? nullptr : "a block is whole warps, at most 1024 threads";
  if (fibers.size() != threads) fibers = std::vector<Fiber>(threads);
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x && !failure; x++) {
        block_index = {x, y, z};
        run_block();
      }
  if (failure) fprintf(stderr, "block (%u, %u, %u): %s\n", block_index.x, block_index.y, block_index.z, failure);
  return failure != nullptr;
}

/// What the lane `from` of this warp gave.
template <typename T>
T exchange(T value, unsigned from) {
  static_assert(sizeof(T) <= 8, "at most eight bytes");
  unsigned warp = current / LANES * LANES;
  memcpy(&fibers[current].given, &value, sizeof(T));
  wait_at(State::at_warp_barrier);
  T taken;
  memcpy(&taken, &fibers[warp + from % LANES].given, sizeof(T));
  wait_at(State::at_warp_barrier);
  return taken;
}

}  // namespace shim

#define threadIdx (dim3{shim::current, 0, 0})
#define blockIdx (shim::block_index)
#define blockDim (dim3{shim::num_threads, 1, 1})
#define gridDim (shim::grid_size)

inline void __syncthreads() { shim::wait_at(shim::State::at_block_barrier); }
inline void __syncwarp() { shim::wait_at(shim::State::at_warp_barrier); }

/// Only whole warps shuffle here.
template <typename T>
T __shfl_xor_sync(uint32_t, T value, int lanes) {
  return shim::exchange(value, shim::current % shim::LANES ^ (unsigned)lanes);
}
template <typename T>
T __shfl_sync(uint32_t, T value, int lane) {
  return shim::exchange(value, (unsigned)lane);
}

inline uint32_t __ballot_sync(uint32_t, bool vote) {
  uint32_t bits = 0;
  shim::Fiber &own = shim::fibers[shim::current];
  unsigned warp = shim::current / shim::LANES * shim::LANES;
  own.given = vote;
  shim::wait_at(shim::State::at_warp_barrier);
  for (unsigned lane = 0; lane < shim::LANES; lane++) bits |= (uint32_t)shim::fibers[warp + lane].given << lane;
  shim::wait_at(shim::State::at_warp_barrier);
  return bits;
}

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }

/// The tensor cores' product of bf16 matrices, 16x16 times 16x8, added to `c`. Which lane holds which element is as the
/// PTX manual says for mma.m16n8k16.
inline void mma_bf16_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  shim::Fiber &own = shim::fibers[shim::current];
  unsigned warp = shim::current / shim::LANES * shim::LANES, lane = shim::current % shim::LANES;
  memcpy(own.fragment, a, sizeof a);
  memcpy(own.fragment + 4, b, sizeof b);
  shim::wait_at(shim::State::at_warp_barrier);
  auto element = [&](unsigned holder, unsigned reg, unsigned half) {
    uint32_t bits = shim::fibers[warp + holder].fragment[reg] >> 16 * half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
  };
  for (unsigned i = 0; i < 4; i++) {
    unsigned row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
    for (unsigned k = 0; k < 16; k++) {
      float from_a = element(row % 8 * 4 + k % 8 / 2, row / 8 + k / 8 * 2, k % 2);
      float from_b = element(col * 4 + k % 8 / 2, 4 + k / 8, k % 2);
      c[i] += from_a * from_b;
    }
  }
  shim::wait_at(shim::State::at_warp_barrier);
}
