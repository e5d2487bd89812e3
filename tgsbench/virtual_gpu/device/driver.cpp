// The CUDA driver: what torch asks through entry points, and Triton by the name libcuda.so.1.
#include "device.h"

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <mutex>
#include <string>
#include <sys/mman.h>
#include <unordered_map>

using vgpu::Launch;
using vgpu::new_handle;
using vgpu::Place;

namespace {

// The driver's errors have the runtime's numbers.
CUresult as_driver(cudaError_t error) { return static_cast<CUresult>(error); }

CUcontext context() { return reinterpret_cast<CUcontext>(uintptr_t{0x100}); }

std::mutex& guard() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

// Physical memory by handle, for the allocator's expandable segments.
std::unordered_map<CUmemGenericAllocationHandle, size_t>& chunks() {
  static auto* known = new std::unordered_map<CUmemGenericAllocationHandle, size_t>;
  return *known;
}

void* self() {
  static void* handle = [] {
    Dl_info found;
    return dladdr(reinterpret_cast<void*>(&as_driver), &found) ? dlopen(found.dli_fname, RTLD_NOW | RTLD_NOLOAD)
                                                               : nullptr;
  }();
  return handle;
}

// An entry point by its plain name, whose newest version the headers define under a number.
void* entry_point(const char* name) {
  for (const char* version : {"", "_v2", "_v3", "_v4"}) {
    if (void* found = dlsym(self(), (std::string(name) + version).c_str())) return found;
  }
  return nullptr;
}

}  // namespace

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  *function = entry_point(name);
  if (!*function) vgpu::unknown_call(name);
  if (result) *result = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int* version) { return as_driver(cudaDriverGetVersion(version)); }

CUresult cuGetErrorString(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "error of the virtual driver";
  return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char** text) {
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_OF_VIRTUAL_DRIVER";
  return CUDA_SUCCESS;
}

#if CUDA_VERSION >= 12090
// torch 2.14 asks for the driver's words on errors, of which there are none here.
CUresult cuLogsRegisterCallback(CUlogsCallback, void*, CUlogsCallbackHandle* handle) {
  *handle = static_cast<CUlogsCallbackHandle>(new_handle());
  return CUDA_SUCCESS;
}

CUresult cuLogsUnregisterCallback(CUlogsCallbackHandle) { return CUDA_SUCCESS; }
#endif

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) { return as_driver(cudaGetDeviceCount(count)); }

CUresult cuDeviceGetName(char* text, int length, CUdevice) {
  snprintf(text, static_cast<size_t>(length), "%s", vgpu::spec().name.c_str());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice device) {
  if (attribute == CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) {
    *value = 1;
    return CUDA_SUCCESS;
  }
  return as_driver(cudaDeviceGetAttribute(value, static_cast<cudaDeviceAttr>(attribute), device));
}

CUresult cuDeviceTotalMem(size_t* bytes, CUdevice) {
  *bytes = vgpu::spec().memory_bytes;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetUuid(CUuuid* uuid, CUdevice device) {
  for (int i = 0; i < 16; i++) uuid->bytes[i] = static_cast<char>(i + device);
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* found, CUdevice) {
  *found = context();
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRelease(CUdevice) { return CUDA_SUCCESS; }

CUresult cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return CUDA_SUCCESS;
}

CUresult cuCtxGetCurrent(CUcontext* found) {
  *found = context();
  return CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent(CUcontext) { return CUDA_SUCCESS; }

CUresult cuCtxPopCurrent(CUcontext* found) {
  if (found) *found = context();
  return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
  *device = vgpu::current_device();
  return CUDA_SUCCESS;
}

// Limits (of a kernel's printf buffer, stack, heap) are of no account: no kernel runs.
CUresult cuCtxGetLimit(size_t* bytes, CUlimit) {
  *bytes = 1u << 20;
  return CUDA_SUCCESS;
}

CUresult cuCtxSetLimit(CUlimit, size_t) { return CUDA_SUCCESS; }

CUresult cuCtxSynchronize() { return as_driver(cudaDeviceSynchronize()); }

// Expandable segments: a range of addresses, and physical chunks that are mapped into it.

CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  void* range = vgpu::reserve_address_space(bytes);
  if (!range) return CUDA_ERROR_OUT_OF_MEMORY;
  vgpu::remember(range, bytes, Place::kDevice);
  *address = reinterpret_cast<CUdeviceptr>(range);
  return CUDA_SUCCESS;
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  void* range = reinterpret_cast<void*>(address);
  vgpu::forget(range);
  vgpu::release_address_space(range, bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemCreate(CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp*,
                     unsigned long long) {
  if (!vgpu::take_memory(bytes)) return CUDA_ERROR_OUT_OF_MEMORY;
  *handle = reinterpret_cast<CUmemGenericAllocationHandle>(new_handle());
  std::lock_guard<std::mutex> held(guard());
  chunks()[*handle] = bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  size_t bytes = 0;
  {
    std::lock_guard<std::mutex> held(guard());
    const auto found = chunks().find(handle);
    if (found == chunks().end()) return CUDA_ERROR_INVALID_VALUE;
    bytes = found->second;
    chunks().erase(found);
  }
  vgpu::give_memory_back(bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemMap(CUdeviceptr, size_t, size_t, CUmemGenericAllocationHandle, unsigned long long) {
  return CUDA_SUCCESS;
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  madvise(reinterpret_cast<void*>(address), bytes, MADV_DONTNEED);
  return CUDA_SUCCESS;
}

CUresult cuMemSetAccess(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) { return CUDA_SUCCESS; }

CUresult cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp*,
                                       CUmemAllocationGranularity_flags) {
  *bytes = 2u << 20;
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  void* begin = nullptr;
  if (!vgpu::find_block(reinterpret_cast<void*>(address), &begin, bytes)) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = reinterpret_cast<CUdeviceptr>(begin);
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* address, size_t bytes) {
  return as_driver(cudaMalloc(reinterpret_cast<void**>(address), bytes));
}

CUresult cuMemFree(CUdeviceptr address) { return as_driver(cudaFree(reinterpret_cast<void*>(address))); }

CUresult cuMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  return as_driver(cudaMemGetInfo(free_bytes, total_bytes));
}

CUresult cuMemsetD32Async(CUdeviceptr address, unsigned value, size_t words, CUstream stream) {
  vgpu::log(vgpu::kMemset, stream, "Memset", words * 4);
  auto* begin = reinterpret_cast<unsigned*>(address);
  if (words <= (1u << 20))
    for (size_t i = 0; i < words; i++) begin[i] = value;
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoD(CUdeviceptr target, const void* source, size_t bytes) {
  return as_driver(cudaMemcpy(reinterpret_cast<void*>(target), source, bytes, cudaMemcpyHostToDevice));
}

CUresult cuMemcpyDtoH(void* target, CUdeviceptr source, size_t bytes) {
  return as_driver(cudaMemcpy(target, reinterpret_cast<void*>(source), bytes, cudaMemcpyDeviceToHost));
}

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr address) {
  const bool on_device = vgpu::place_of(reinterpret_cast<void*>(address)) == Place::kDevice;
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *static_cast<CUdeviceptr*>(value) = address; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *static_cast<unsigned*>(value) = on_device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
      return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *static_cast<int*>(value) = vgpu::current_device(); return CUDA_SUCCESS;
    default: return CUDA_ERROR_NOT_SUPPORTED;
  }
}

CUresult cuStreamSynchronize(CUstream stream) { return as_driver(cudaStreamSynchronize(stream)); }

CUresult cuStreamGetCtx(CUstream, CUcontext* found) { return cuCtxGetCurrent(found); }

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  return as_driver(cudaStreamIsCapturing(stream, reinterpret_cast<cudaStreamCaptureStatus*>(status)));
}

// Modules: what Triton and Inductor compiled; their kernels are known by the names asked for.

CUresult cuModuleLoadData(CUmodule* module, const void*) {
  *module = static_cast<CUmodule>(new_handle());
  return CUDA_SUCCESS;
}

CUresult cuModuleLoad(CUmodule* module, const char*) { return cuModuleLoadData(module, nullptr); }

CUresult cuModuleLoadDataEx(CUmodule* module, const void* image, unsigned, CUjit_option*, void**) {
  return cuModuleLoadData(module, image);
}

CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
  *function = static_cast<CUfunction>(new_handle());
  vgpu::register_kernel(*function, name);
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction) {
  *value = attribute == CU_FUNC_ATTRIBUTE_NUM_REGS                ? 64
           : attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024
                                                                  : 0;
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int threads, size_t shared_bytes) {
  return as_driver(cudaOccupancyMaxActiveBlocksPerMultiprocessor(blocks, nullptr, threads, shared_bytes));
}

CUresult cuOccupancyMaxActiveClusters(int* clusters, CUfunction, const CUlaunchConfig*) {
  *clusters = vgpu::spec().multiprocessors / 2;
  return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeIm2col(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const int*, const int*, cuuint32_t, cuuint32_t, const cuuint32_t*,
                                 CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                 CUtensorMapFloatOOBfill) {
  return CUDA_SUCCESS;
}

CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared_bytes, CUstream stream, void**, void**) {
  vgpu::log_launch(function, stream, Launch{dim3(gx, gy, gz), dim3(bx, by, bz), shared_bytes, nullptr});
  return CUDA_SUCCESS;
}

CUresult cuLaunchCooperativeKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                   unsigned by, unsigned bz, unsigned shared_bytes, CUstream stream, void** args) {
  return cuLaunchKernel(function, gx, gy, gz, bx, by, bz, shared_bytes, stream, args, nullptr);
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** args, void** extra) {
  return cuLaunchKernel(function, config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX,
                        config->blockDimY, config->blockDimZ, config->sharedMemBytes, config->hStream, args, extra);
}
