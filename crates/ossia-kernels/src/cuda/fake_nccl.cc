// NCCL for the ranks of one process over the fake driver: each rank's thread comes to the same call, and all see what all
// brought. Calls of a group are made one by one.

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <condition_variable>
#include <mutex>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

/// Whether so many bytes lie in one allocation of the fake driver.
bool is_device_memory(uint64_t address, size_t bytes);

namespace {

enum Code { SUCCESS = 0, INTERNAL_ERROR = 3, INVALID_ARGUMENT = 4 };
constexpr int FLOAT32 = 7, SUM = 0;

struct Ranks {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<const float *> brought;
  unsigned waiting = 0, round = 0;
  bool aborted = false;

  /// Waits until every rank is here.
  bool meet() {
    std::unique_lock<std::mutex> lock(mutex);
    const unsigned this_round = round;
    if (++waiting == brought.size()) {
      waiting = 0;
      round++;
      changed.notify_all();
    }
    changed.wait(lock, [&] { return round != this_round || aborted; });
    return !aborted;
  }
};

struct Comm {
  Ranks *ranks;
  size_t rank;
};

}  // namespace

EXPORT Code ncclCommInitAll(Comm **comms, int count, const int *devices) {
  Ranks *ranks = new Ranks{};
  ranks->brought.resize(count);
  for (int rank = 0; rank < count; rank++) {
    for (int other = 0; other < rank; other++)
      if (devices[other] == devices[rank]) return INVALID_ARGUMENT;
    comms[rank] = new Comm{ranks, size_t(rank)};
  }
  return SUCCESS;
}
/// Those who wait may still look at what they share.
EXPORT Code ncclCommDestroy(Comm *) { return SUCCESS; }
EXPORT Code ncclCommAbort(Comm *comm) {
  std::lock_guard<std::mutex> lock(comm->ranks->mutex);
  comm->ranks->aborted = true;
  comm->ranks->changed.notify_all();
  return SUCCESS;
}
EXPORT Code ncclGroupStart() { return SUCCESS; }
EXPORT Code ncclGroupEnd() { return SUCCESS; }

EXPORT Code ncclAllReduce(const float *from, float *to, size_t count, int type, int op, Comm *comm, void *) {
  const uint64_t read = reinterpret_cast<uint64_t>(from), written = reinterpret_cast<uint64_t>(to);
  if (type != FLOAT32 || op != SUM || !is_device_memory(read, 4 * count) || !is_device_memory(written, 4 * count))
    return INVALID_ARGUMENT;
  Ranks &ranks = *comm->ranks;
  ranks.brought[comm->rank] = from;
  if (!ranks.meet()) return INTERNAL_ERROR;
  for (size_t i = 0; i < count; i++) {
    float sum = 0;
    for (const float *part : ranks.brought) sum += part[i];
    to[i] = sum;
  }
  return ranks.meet() ? SUCCESS : INTERNAL_ERROR;
}

EXPORT Code ncclAllGather(const float *from, float *to, size_t count, int type, Comm *comm, void *) {
  Ranks &ranks = *comm->ranks;
  const size_t all = count * ranks.brought.size();
  const uint64_t read = reinterpret_cast<uint64_t>(from), written = reinterpret_cast<uint64_t>(to);
  if (type != FLOAT32 || !is_device_memory(read, 4 * count) || !is_device_memory(written, 4 * all))
    return INVALID_ARGUMENT;
  ranks.brought[comm->rank] = from;
  if (!ranks.meet()) return INTERNAL_ERROR;
  for (size_t rank = 0; rank < ranks.brought.size(); rank++) memcpy(to + rank * count, ranks.brought[rank], 4 * count);
  return ranks.meet() ? SUCCESS : INTERNAL_ERROR;
}
