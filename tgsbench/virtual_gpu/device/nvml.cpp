// NVML: which GPUs there are. What a sensor would say is not supported: nothing here gets warm.
#include "device.h"

#include <cstdio>
#include <cstring>
#include <unistd.h>

namespace {

constexpr int kSuccess = 0;
constexpr int kInvalidArgument = 2;
constexpr int kNotSupported = 3;

struct MemoryInfo {
  unsigned long long total, free, used;
};

struct FabricInfo {
  unsigned version;
  unsigned char cluster[16];
  int status;
  unsigned clique;
  unsigned char state;
  unsigned health;
};

void* handle_of(unsigned index) { return reinterpret_cast<void*>(uintptr_t{0x100} + index); }

int write(char* text, unsigned length, const char* value) {
  snprintf(text, length, "%s", value);
  return kSuccess;
}

// What both versions of NVML's process records begin with.
struct ProcessMemory {
  unsigned pid;
  unsigned long long used;
};

// The one process that a virtual GPU knows; torch's report of a full card says what it uses.
int own_process(unsigned* count, ProcessMemory* processes) {
  if (*count && processes) *processes = ProcessMemory{static_cast<unsigned>(getpid()), vgpu::used_memory()};
  *count = 1;
  return kSuccess;
}

}  // namespace

VGPU_EXPORT int nvmlInit_v2() { return kSuccess; }
VGPU_EXPORT int nvmlInitWithFlags(unsigned) { return kSuccess; }
VGPU_EXPORT int nvmlShutdown() { return kSuccess; }

VGPU_EXPORT const char* nvmlErrorString(int error) {
  return error == kSuccess ? "success" : "not supported by a virtual GPU";
}

VGPU_EXPORT int nvmlDeviceGetCount_v2(unsigned* count) {
  *count = static_cast<unsigned>(vgpu::spec().num_devices);
  return kSuccess;
}

VGPU_EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, void** handle) {
  if (index >= static_cast<unsigned>(vgpu::spec().num_devices)) return kInvalidArgument;
  *handle = handle_of(index);
  return kSuccess;
}

VGPU_EXPORT int nvmlDeviceGetHandleByUUID(const char*, void** handle) {
  *handle = handle_of(0);
  return kSuccess;
}

VGPU_EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char*, void** handle) {
  *handle = handle_of(0);
  return kSuccess;
}

VGPU_EXPORT int nvmlDeviceGetName(void*, char* text, unsigned length) {
  return write(text, length, vgpu::spec().name.c_str());
}

VGPU_EXPORT int nvmlDeviceGetMemoryInfo(void*, MemoryInfo* memory) {
  const size_t total = vgpu::spec().memory_bytes, used = vgpu::used_memory();
  *memory = MemoryInfo{total, total - used, used};
  return kSuccess;
}

VGPU_EXPORT int nvmlSystemGetCudaDriverVersion_v2(int* version) {
  *version = CUDART_VERSION;
  return kSuccess;
}

VGPU_EXPORT int nvmlSystemGetDriverVersion(char* text, unsigned length) { return write(text, length, "virtual"); }

VGPU_EXPORT int nvmlDeviceGetUtilizationRates(void*, void*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetPowerUsage(void*, unsigned*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetTemperature(void*, int, unsigned*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetTemperatureV(void*, void*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetClockInfo(void*, int, unsigned*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(void*, unsigned long long*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetCurrentClocksEventReasons(void*, unsigned long long*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetTopologyCommonAncestor(void*, void*, int*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetNvLinkState(void*, unsigned, int*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetNvLinkRemoteDeviceType(void*, unsigned, int*) { return kNotSupported; }
VGPU_EXPORT int nvmlDeviceGetNvLinkRemotePciInfo_v2(void*, unsigned, void*) { return kNotSupported; }
// No NVLink between machines: state 0 is "not supported".
VGPU_EXPORT int nvmlDeviceGetGpuFabricInfoV(void*, FabricInfo* fabric) {
  *fabric = FabricInfo{fabric->version, {}, 0, 0, 0, 0};
  return kSuccess;
}

VGPU_EXPORT int nvmlDeviceGetComputeRunningProcesses(void*, unsigned* count, ProcessMemory* processes) {
  return own_process(count, processes);
}

VGPU_EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(void*, unsigned* count, void* processes) {
  return own_process(count, static_cast<ProcessMemory*>(processes));
}
