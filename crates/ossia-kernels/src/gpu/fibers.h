// The execution model of a GPU on one CPU thread, for tests. Each thread of a block is a fiber with a stack of its own. A
// fiber runs until it waits at a barrier; a barrier opens when everybody it waits for has come, so a thread that never
// comes shows as an error instead of a hang. Blocks run one after the other over shared memory that is filled with NaN
// before each. cuda/shim.h and metal/shim.h give it the words of their languages.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <vector>

struct dim3 {
  unsigned x, y, z;
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
