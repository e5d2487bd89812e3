// Kernels: their names as the fat binaries register them, and launches as records of the log.
#include "device.h"

#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace vgpu {
namespace {

struct Kernel {
  std::string mangled;
  std::string name;      // readable; made at the first launch
  bool counts_elements;  // its first argument is the number of elements
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
  static const auto* nameless = new Kernel{"", "kernel without a name", false};
  const auto found = kernels().find(handle);
  if (found == kernels().end()) return *nameless;
  Kernel& kernel = found->second;
  if (kernel.name.empty()) {
    kernel.name = readable(kernel.mangled);
    kernel.counts_elements = starts_with_count(kernel.name);
  }
  return kernel;
}

uint64_t elements_of(const Kernel& kernel, void** args) {
  if (!kernel.counts_elements || !args || !args[0]) return 0;
  int count = 0;
  memcpy(&count, args[0], sizeof count);
  return count > 0 ? static_cast<uint64_t>(count) : 0;
}

}  // namespace

void register_kernel(const void* handle, const char* name) {
  std::lock_guard<std::mutex> held(guard());
  kernels()[handle] = Kernel{name, "", false};
}

void log_launch(const void* handle, const void* stream, const Launch& launch) {
  const Kernel& kernel = kernel_of(handle);
  const uint64_t yz = launch.grid.y | static_cast<uint64_t>(launch.grid.z) << 32;
  const uint64_t threads = uint64_t{launch.block.x} * launch.block.y * launch.block.z;
  log(kKernel, stream, kernel.name, launch.grid.x, yz, threads | launch.shared_bytes << 32,
      elements_of(kernel, launch.args));
}

}  // namespace vgpu

using vgpu::Launch;
using vgpu::log_launch;

VGPU_EXPORT void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
VGPU_EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
VGPU_EXPORT void __cudaUnregisterFatBinary(void**) {}
VGPU_EXPORT char __cudaInitModule(void**) { return 0; }
VGPU_EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
VGPU_EXPORT void __cudaRegisterFunction(void**, const char* handle, char*, const char* name, int, void*, void*,
                                        void*, void*, int*) {
  vgpu::register_kernel(handle, name);
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

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* found, const void*) {
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 64;
  found->binaryVersion = found->ptxVersion = vgpu::spec().compute_major * 10 + vgpu::spec().compute_minor;
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
