// The CUDA runtime's questions about devices and errors.
#include "device.h"

#include <cstdio>
#include <cstring>

using vgpu::spec;

namespace {

thread_local int current = 0;
thread_local cudaError_t last_error = cudaSuccess;

constexpr int kCudaVersion = CUDART_VERSION;

}  // namespace

namespace vgpu {

int current_device() { return current; }

}  // namespace vgpu

// Keep an error for cudaGetLastError, as the runtime does.
cudaError_t vgpu_fail(cudaError_t error) { return last_error = error; }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = spec().num_devices;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= spec().num_devices) return vgpu_fail(cudaErrorInvalidDevice);
  current = device;
  return cudaSuccess;
}

// Limits that are the same on every GPU since compute capability 8.0, and those of the configured one.
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int device) {
  if (device < 0 || device >= spec().num_devices) return vgpu_fail(cudaErrorInvalidDevice);
  const bool ampere = spec().compute_major == 8;
  memset(found, 0, sizeof *found);
  snprintf(found->name, sizeof found->name, "%s", spec().name.c_str());
  for (int i = 0; i < 16; i++) found->uuid.bytes[i] = static_cast<char>(i + device);
  found->major = spec().compute_major;
  found->minor = spec().compute_minor;
  found->totalGlobalMem = spec().memory_bytes;
  found->multiProcessorCount = spec().multiprocessors;
  found->maxThreadsPerBlock = 1024;
  found->maxThreadsPerMultiProcessor = 2048;
  found->maxBlocksPerMultiProcessor = 32;
  found->sharedMemPerBlock = 48 << 10;
  found->sharedMemPerBlockOptin = (ampere ? 163 : 227) << 10;
  found->sharedMemPerMultiprocessor = (ampere ? 164 : 228) << 10;
  found->reservedSharedMemPerBlock = 1 << 10;
  found->warpSize = 32;
  found->regsPerBlock = found->regsPerMultiprocessor = 65536;
  found->l2CacheSize = (ampere ? 40 : 50) << 20;
  found->maxThreadsDim[0] = found->maxThreadsDim[1] = 1024;
  found->maxThreadsDim[2] = 64;
  found->maxGridSize[0] = 2147483647;
  found->maxGridSize[1] = found->maxGridSize[2] = 65535;
  found->concurrentKernels = found->cooperativeLaunch = found->unifiedAddressing = 1;
  found->memoryPoolsSupported = found->canMapHostMemory = found->managedMemory = 1;
  found->asyncEngineCount = 3;
  found->textureAlignment = 512;
  found->memPitch = 2147483647;
  found->totalConstMem = 65536;
  found->pciBusID = device + 1;
  found->memoryBusWidth = 5120;
  return cudaSuccess;
}

// Numbers as in cudaDeviceAttr, which are those of CUdevice_attribute too.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp p;
  if (const cudaError_t error = cudaGetDeviceProperties(&p, device)) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY: *value = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *value = 64; break;
    case cudaDevAttrMaxGridDimX: *value = 2147483647; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(p.sharedMemPerBlock); break;
    case cudaDevAttrTotalConstantMemory: *value = 65536; break;
    case cudaDevAttrWarpSize: *value = 32; break;
    case cudaDevAttrMaxRegistersPerBlock:
    case cudaDevAttrMaxRegistersPerMultiprocessor: *value = 65536; break;
    case cudaDevAttrClockRate: *value = 1980000; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrComputeMode: *value = 0; break;
    case cudaDevAttrMemoryClockRate: *value = 2619000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = p.memoryBusWidth; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = 2048; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = static_cast<int>(p.sharedMemPerMultiprocessor); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(p.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = 32; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = 1024; break;
    case cudaDevAttrUnifiedAddressing:
    case cudaDevAttrConcurrentKernels:
    case cudaDevAttrCanMapHostMemory:
    case cudaDevAttrCooperativeLaunch:
    case cudaDevAttrManagedMemory:
    case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
    default: *value = 0;  // fabric handles, multicast, GPUDirect and other hardware that is not there
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  *can = device != peer;
  return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = kCudaVersion;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kCudaVersion;
  return cudaSuccess;
}

cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorMemoryAllocation) return "out of memory";
  if (error == cudaErrorInvalidDevice) return "invalid device ordinal";
  return error == cudaSuccess ? "no error" : "error of the virtual device";
}

const char* cudaGetErrorName(cudaError_t error) {
  if (error == cudaErrorMemoryAllocation) return "cudaErrorMemoryAllocation";
  return error == cudaSuccess ? "cudaSuccess" : "cudaErrorOfVirtualDevice";
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }
