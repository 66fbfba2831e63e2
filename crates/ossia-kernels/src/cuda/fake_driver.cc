// A CUDA driver with two devices for one process on a machine without a GPU, for `cargo xtask cuda-dry-run`: device memory is the
// machine's, a stream does each thing at once, and a module is a shared object with the CPU twins of our kernels. So the
// host code that serves a GPU runs as it is, and its results can be checked. Every allocation ends at a page that nobody
// may touch, is filled with NaN, and must be freed with the context; candle's own kernels are refused by name.

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <map>
#include <mutex>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

enum Code { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, NOT_FOUND = 500, NOT_SUPPORTED = 801 };

// The largest argument struct of a kernel is smaller.
constexpr size_t MAX_ARGS_BYTES = 256;
constexpr size_t PAGE = 4096, TOTAL_BYTES = size_t(8) << 30;

struct Allocation {
  char *mapping;
  size_t mapping_bytes;
  size_t bytes;
};

struct Function {
  int (*run)(const void *args, unsigned x, unsigned y, unsigned z, unsigned threads);
};

/// What a graph does, in order.
struct Node {
  Function *function;  // or a copy, if null
  std::vector<unsigned char> args;
  unsigned grid[3], threads;
  uint64_t to, from;
  size_t bytes;
};

/// Memory that was given back while the graph was recorded stays with it, since its kernels use it at each launch.
struct Graph {
  std::vector<Node> nodes;
  std::vector<uint64_t> memory;
};

struct Module {
  void *library;
  std::map<const void *, Function *> functions;
};

std::mutex mutex;
std::map<uint64_t, Allocation> allocations;
size_t used_bytes;
thread_local void *current_context;
thread_local Graph *recording;  // what this thread's calls go to, if not null
constexpr int NUM_DEVICES = 2;
int contexts[NUM_DEVICES], one;  // what handles point to that nobody looks into

Code allocate(uint64_t *address, size_t bytes) {
  if (bytes == 0) return INVALID_VALUE;
  std::lock_guard<std::mutex> lock(mutex);
  if (used_bytes + bytes > TOTAL_BYTES) return OUT_OF_MEMORY;
  // Addresses of a real driver are multiples of 256; what lies between the end and the guard page is filled too.
  const size_t padded = (bytes + 255) / 256 * 256, pages = (padded + PAGE - 1) / PAGE * PAGE;
  void *mapping = mmap(nullptr, pages + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) return OUT_OF_MEMORY;
  mprotect(static_cast<char *>(mapping) + pages, PAGE, PROT_NONE);
  char *start = static_cast<char *>(mapping) + pages - padded;
  memset(start, 0xff, padded);
  *address = reinterpret_cast<uint64_t>(start);
  allocations[*address] = {static_cast<char *>(mapping), pages + PAGE, bytes};
  used_bytes += bytes;
  return SUCCESS;
}

/// Nothing may have been written between the end of the allocation and its guard page.
Code release(uint64_t address) {
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = allocations.find(address);
  if (found == allocations.end()) return INVALID_VALUE;
  const Allocation &it = found->second;
  const unsigned char *end = reinterpret_cast<unsigned char *>(address) + it.bytes;
  for (size_t i = 0; i < (it.bytes + 255) / 256 * 256 - it.bytes; i++)
    if (end[i] != 0xff) {
      fprintf(stderr, "fake driver: something wrote past an allocation of %zu bytes\n", it.bytes);
      abort();
    }
  munmap(it.mapping, it.mapping_bytes);
  used_bytes -= it.bytes;
  allocations.erase(found);
  return SUCCESS;
}

/// Runs a kernel's twin, one at a time: its threads are fibers that share what a block has.
Code run(const Function *function, const void *args, const unsigned *grid, unsigned threads) {
  static std::mutex running;
  std::lock_guard<std::mutex> lock(running);
  return function->run(args, grid[0], grid[1], grid[2], threads) == 0 ? SUCCESS : INVALID_VALUE;
}

/// Whether `bytes` from `address` on lie in one allocation.
bool is_inside(uint64_t address, size_t bytes) {
  std::lock_guard<std::mutex> lock(mutex);
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin()) return false;
  const auto &[start, allocation] = *--after;
  return address + bytes <= start + allocation.bytes;
}

/// Length of a shared object in memory: its section headers come last.
size_t object_bytes(const unsigned char *image) {
  uint64_t table;
  uint16_t size, count;
  memcpy(&table, image + 0x28, 8);
  memcpy(&size, image + 0x3a, 2);
  memcpy(&count, image + 0x3c, 2);
  return table + size_t(size) * count;
}

}  // namespace

bool is_device_memory(uint64_t address, size_t bytes) { return is_inside(address, bytes); }

EXPORT Code cuInit(unsigned) { return SUCCESS; }
EXPORT Code cuDeviceGetCount(int *count) { return *count = NUM_DEVICES, SUCCESS; }
EXPORT Code cuDeviceGet(int *device, int ordinal) {
  return *device = ordinal, ordinal < NUM_DEVICES ? SUCCESS : INVALID_DEVICE;
}
EXPORT Code cuDeviceGetName(char *name, int len, int) { return snprintf(name, len, "fake"), SUCCESS; }
EXPORT Code cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = TOTAL_BYTES, SUCCESS; }
/// Compute capability 8.0, memory pools, four multiprocessors and nothing else.
EXPORT Code cuDeviceGetAttribute(int *value, int attribute, int) {
  *value = attribute == 75 ? 8 : attribute == 115 ? 1 : attribute == 16 ? 4 : 0;
  return SUCCESS;
}
EXPORT Code cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &contexts[device], SUCCESS; }
EXPORT Code cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
EXPORT Code cuCtxGetCurrent(void **context) { return *context = current_context, SUCCESS; }
EXPORT Code cuCtxSetCurrent(void *context) { return current_context = context, SUCCESS; }
EXPORT Code cuCtxSynchronize() { return SUCCESS; }
EXPORT Code cuStreamCreate(void **stream, unsigned) { return *stream = &one, SUCCESS; }
EXPORT Code cuStreamDestroy_v2(void *) { return SUCCESS; }
EXPORT Code cuStreamSynchronize(void *) { return SUCCESS; }
EXPORT Code cuStreamWaitEvent(void *, void *, unsigned) { return SUCCESS; }
EXPORT Code cuStreamIsCapturing(void *, int *status) { return *status = recording ? 1 : 0, SUCCESS; }
EXPORT Code cuStreamBeginCapture_v2(void *, int) {
  if (recording) return INVALID_VALUE;
  return recording = new Graph{}, SUCCESS;
}
EXPORT Code cuStreamEndCapture(void *, Graph **graph) {
  if (!recording) return INVALID_VALUE;
  *graph = recording;
  return recording = nullptr, SUCCESS;
}
EXPORT Code cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
  return *executable = graph, SUCCESS;
}
EXPORT Code cuGraphExecDestroy(Graph *) { return SUCCESS; }
EXPORT Code cuDeviceGetDefaultMemPool(void **pool, int) { return *pool = &one, SUCCESS; }
EXPORT Code cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
EXPORT Code cuEventCreate(void **event, unsigned) { return *event = &one, SUCCESS; }
EXPORT Code cuEventRecord(void *, void *) { return SUCCESS; }
EXPORT Code cuEventDestroy_v2(void *) { return SUCCESS; }

EXPORT Code cuMemGetInfo_v2(size_t *free, size_t *total) {
  return *free = TOTAL_BYTES - used_bytes, *total = TOTAL_BYTES, SUCCESS;
}
EXPORT Code cuMemAlloc_v2(uint64_t *address, size_t bytes) { return allocate(address, bytes); }
EXPORT Code cuMemAllocAsync(uint64_t *address, size_t bytes, void *) { return allocate(address, bytes); }
EXPORT Code cuMemFree_v2(uint64_t address) { return release(address); }
EXPORT Code cuMemFreeAsync(uint64_t address, void *) {
  if (recording) return recording->memory.push_back(address), SUCCESS;
  return release(address);
}
EXPORT Code cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *) {
  if (!is_inside(to, bytes) || recording) return INVALID_VALUE;
  return memcpy(reinterpret_cast<void *>(to), from, bytes), SUCCESS;
}
EXPORT Code cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *) {
  if (!is_inside(from, bytes) || recording) return INVALID_VALUE;
  return memcpy(to, reinterpret_cast<const void *>(from), bytes), SUCCESS;
}
EXPORT Code cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *) {
  if (!is_inside(to, bytes) || !is_inside(from, bytes)) return INVALID_VALUE;
  if (recording) return recording->nodes.push_back({nullptr, {}, {}, 0, to, from, bytes}), SUCCESS;
  return memmove(reinterpret_cast<void *>(to), reinterpret_cast<const void *>(from), bytes), SUCCESS;
}
EXPORT Code cuMemsetD8Async(uint64_t to, unsigned char value, size_t bytes, void *) {
  if (!is_inside(to, bytes)) return INVALID_VALUE;
  return memset(reinterpret_cast<void *>(to), value, bytes), SUCCESS;
}

/// A shared object of ours, or else PTX of candle's, which has no functions here.
EXPORT Code cuModuleLoadData(Module **module, const void *image) {
  *module = new Module{};
  const unsigned char *bytes = static_cast<const unsigned char *>(image);
  if (memcmp(bytes, "\177ELF", 4) != 0) return SUCCESS;
  const int file = memfd_create("kernels", 0);
  const size_t len = object_bytes(bytes);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  if (file < 0 || write(file, bytes, len) != ssize_t(len)) return INVALID_VALUE;
  (*module)->library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!(*module)->library) fprintf(stderr, "fake driver: %s\n", dlerror());
  return (*module)->library ? SUCCESS : INVALID_VALUE;
}
EXPORT Code cuModuleUnload(Module *) { return SUCCESS; }
EXPORT Code cuModuleGetFunction(Function **function, Module *module, const char *name) {
  char twin[256];
  snprintf(twin, sizeof twin, "%s_twin", name);
  void *found = module->library ? dlsym(module->library, twin) : nullptr;
  if (!found) {
    fprintf(stderr, "fake driver: there is no twin of kernel %s\n", name);
    return NOT_FOUND;
  }
  *function = new Function{reinterpret_cast<decltype(Function::run)>(found)};
  return SUCCESS;
}
/// Code of an architecture whose kernels do not wait for each other.
EXPORT Code cuFuncGetAttribute(int *value, int, Function *) { return *value = 80, SUCCESS; }
struct LaunchConfig {
  unsigned x, y, z, threads, threads_y, threads_z, shared_bytes;
  void *stream, *attributes;
  unsigned num_attributes;
};
EXPORT Code cuLaunchKernelEx(const LaunchConfig *config, Function *function, void **args, void **) {
  const auto [x, y, z, threads, threads_y, threads_z, shared_bytes, stream, attributes, num_attributes] = *config;
  if (threads_y != 1 || threads_z != 1 || shared_bytes != 0 || num_attributes != 0) return INVALID_VALUE;
  if (x > 0x7fffffffu || y > 65535 || z > 65535) return INVALID_VALUE;
  if (recording) {
    // Nobody says how long the arguments are; more of the caller's memory than they take does no harm.
    const unsigned char *bytes = static_cast<const unsigned char *>(args[0]);
    recording->nodes.push_back({function, {bytes, bytes + MAX_ARGS_BYTES}, {x, y, z}, threads, 0, 0, 0});
    return SUCCESS;
  }
  const unsigned grid[3] = {x, y, z};
  return run(function, args[0], grid, threads);
}
EXPORT Code cuGraphLaunch(Graph *graph, void *) {
  for (const Node &node : graph->nodes) {
    if (!node.function)
      memmove(reinterpret_cast<void *>(node.to), reinterpret_cast<const void *>(node.from), node.bytes);
    else if (const Code code = run(node.function, node.args.data(), node.grid, node.threads); code != SUCCESS)
      return code;
  }
  return SUCCESS;
}
EXPORT Code cuGraphDestroy(Graph *graph) {
  for (uint64_t address : graph->memory) release(address);
  return delete graph, SUCCESS;
}
EXPORT Code cuGetErrorName(Code, const char **text) { return *text = "FAKE_DRIVER_ERROR", SUCCESS; }
EXPORT Code cuGetErrorString(Code, const char **text) { return *text = "an error of the fake driver", SUCCESS; }

// cuBLAS and cuRAND, as far as opening a device asks for them; whoever computes with them gets an error.
EXPORT int cublasCreate_v2(void **handle) { return *handle = &one, 0; }
EXPORT int cublasDestroy_v2(void *) { return 0; }
EXPORT int cublasSetStream_v2(void *, void *) { return 0; }
EXPORT int curandCreateGenerator(void **generator, int) { return *generator = &one, 0; }
EXPORT int curandDestroyGenerator(void *) { return 0; }
EXPORT int curandSetStream(void *, void *) { return 0; }
EXPORT int curandSetPseudoRandomGeneratorSeed(void *, unsigned long long) { return 0; }
EXPORT int curandSetGeneratorOffset(void *, unsigned long long) { return 0; }
