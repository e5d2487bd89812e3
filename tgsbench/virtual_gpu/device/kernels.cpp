// Kernels: their names and architectures as the fat binaries register them, and launches as records of the log.
#include "device.h"

#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace vgpu {
namespace {

// Architectures that a fat binary has code for, as 100 for sm_100.
using Architectures = std::vector<int>;

struct Kernel {
  const Architectures* built_for;  // none where a cubin was made for this device
  std::string mangled;
  std::string name;      // readable; made at the first launch
  bool counts_elements;  // its first argument is the number of elements
  size_t fill_width;     // bytes of each element that it fills; 0: it fills none
};

std::mutex& guard() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

std::unordered_map<const void*, Kernel>& kernels() {
  static auto* known = new std::unordered_map<const void*, Kernel>;
  return *known;
}

std::string readable(const std::string& mangled) {
  int status = 0;
  char* text = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status);
  std::string name = status == 0 && text ? text : mangled;
  free(text);
  return name;
}

// torch's element-wise kernels begin with `int N`, which says more than a grid of rounded blocks; those of a
// normalisation with the width of a row.
bool starts_with_count(const std::string& name) {
  return name.find("elementwise_kernel<") != std::string::npos ||
         name.find("vectorized_layer_norm_kernel<") != std::string::npos;
}

const Kernel& kernel_of(const void* handle) {
  std::lock_guard<std::mutex> held(guard());
  static const auto* nameless = new Kernel{nullptr, "", "kernel without a name", false, 0};
  const auto found = kernels().find(handle);
  if (found == kernels().end()) return *nameless;
  Kernel& kernel = found->second;
  if (kernel.name.empty()) {
    kernel.name = readable(kernel.mangled);
    kernel.counts_elements = starts_with_count(kernel.name);
    kernel.fill_width = width_of_fill(kernel.name);
  }
  return kernel;
}

uint64_t elements_of(const Kernel& kernel, void** args) {
  if (!kernel.counts_elements || !args || !args[0]) return 0;
  int count = 0;
  memcpy(&count, args[0], sizeof count);
  return count > 0 ? static_cast<uint64_t>(count) : 0;
}

// A fat binary is a head (magic, its own size in 16 bits at 6, that of what follows in 64 at 8) and one part for
// each architecture (its head's size in 32 bits at 4, that of its code in 64 at 8, the architecture in 32 at 28).
template <typename T>
T read_at(const char* base, size_t offset) {
  T value;
  memcpy(&value, base + offset, sizeof value);
  return value;
}

Architectures architectures_of(const void* wrapper) {
  constexpr uint32_t kMagic = 0xBA55ED50;
  constexpr size_t kPartHead = 32;
  Architectures found;
  const auto* data = read_at<const char*>(static_cast<const char*>(wrapper), 8);
  if (!data || read_at<uint32_t>(data, 0) != kMagic) return found;
  const char* part = data + read_at<uint16_t>(data, 6);
  const char* end = part + read_at<uint64_t>(data, 8);
  while (part + kPartHead <= end) {
    const size_t size = read_at<uint32_t>(part, 4) + read_at<uint64_t>(part, 8);
    if (size < kPartHead) break;
    found.push_back(static_cast<int>(read_at<uint32_t>(part, 28)));
    part += size;
  }
  return found;
}

// The driver takes the newest code that is not newer than the device: CUB knows no other architecture of itself.
int architecture_that_runs(const Kernel& kernel) {
  const int device = spec().compute_major * 10 + spec().compute_minor;
  if (!kernel.built_for) return device;
  int best = 0;
  for (const int each : *kernel.built_for)
    if (each <= device && each > best) best = each;
  return best ? best : device;
}

}  // namespace

void register_kernel(const void* handle, const char* name, const void* built_for) {
  std::lock_guard<std::mutex> held(guard());
  kernels()[handle] = Kernel{static_cast<const Architectures*>(built_for), name, "", false, 0};
}

void log_launch(const void* handle, const void* stream, const Launch& launch) {
  const Kernel& kernel = kernel_of(handle);
  const uint64_t yz = launch.grid.y | static_cast<uint64_t>(launch.grid.z) << 32;
  const uint64_t threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  log(kKernel, stream, kernel.name, launch.grid.x, yz, threads | launch.shared_bytes << 32,
      elements_of(kernel, launch.args));
  if (kernel.fill_width && launch.args) fill(kernel.fill_width, launch.args);
}

}  // namespace vgpu

using vgpu::Launch;
using vgpu::log_launch;

VGPU_EXPORT void** __cudaRegisterFatBinary(void* wrapper) {
  return reinterpret_cast<void**>(new vgpu::Architectures(vgpu::architectures_of(wrapper)));
}
VGPU_EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
VGPU_EXPORT void __cudaUnregisterFatBinary(void**) {}
VGPU_EXPORT char __cudaInitModule(void**) { return 0; }
VGPU_EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
VGPU_EXPORT void __cudaRegisterFunction(void** built_for, const char* handle, char*, const char* name, int, void*, void*,
                                        void*, void*, int*) {
  vgpu::register_kernel(handle, name, built_for);
}

namespace {
struct CallConfiguration {
  dim3 grid, block;
  size_t shared_bytes;
  void* stream;
};
thread_local std::vector<CallConfiguration> configurations;
}  // namespace

VGPU_EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared_bytes, void* stream) {
  configurations.push_back({grid, block, shared_bytes, stream});
  return 0;
}

VGPU_EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared_bytes, void* stream) {
  if (configurations.empty()) return cudaErrorMissingConfiguration;
  const CallConfiguration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid;
  *block = last.block;
  *shared_bytes = last.shared_bytes;
  *static_cast<void**>(stream) = last.stream;
  return cudaSuccess;
}

VGPU_EXPORT cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* handle) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(handle));
  return cudaSuccess;
}

VGPU_EXPORT cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                                           size_t shared_bytes, cudaStream_t stream) {
  log_launch(kernel, stream, Launch{grid, block, shared_bytes, args});
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* handle, dim3 grid, dim3 block, void** args, size_t shared_bytes,
                             cudaStream_t stream) {
  log_launch(handle, stream, Launch{grid, block, shared_bytes, args});
  return cudaSuccess;
}

cudaError_t cudaLaunchCooperativeKernel(const void* handle, dim3 grid, dim3 block, void** args,
                                        size_t shared_bytes, cudaStream_t stream) {
  log_launch(handle, stream, Launch{grid, block, shared_bytes, args});
  return cudaSuccess;
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* handle, void** args) {
  log_launch(handle, config->stream, Launch{config->gridDim, config->blockDim, config->dynamicSmemBytes, args});
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t, cudaHostFn_t function, void* data) {
  function(data);  // all work before it is done: nothing is ever pending
  return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void* handle) {
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 64;
  found->binaryVersion = found->ptxVersion = vgpu::architecture_that_runs(vgpu::kernel_of(handle));
  found->maxDynamicSharedSizeBytes = 232448;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads, size_t,
                                                                   unsigned) {
  *blocks = threads > 0 && threads < 2048 ? 2048 / threads : 1;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* handle, int threads,
                                                          size_t shared_bytes) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, handle, threads, shared_bytes, 0);
}
