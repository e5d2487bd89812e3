// The CUDA runtime's memory: allocations, copies, fills.
#include "device.h"

#include <cstring>
#include <mutex>
#include <unordered_set>

using vgpu::Place;

cudaError_t vgpu_fail(cudaError_t error);

cudaError_t cudaMalloc(void** address, size_t bytes) {
  *address = nullptr;
  if (!vgpu::take_memory(bytes)) return vgpu_fail(cudaErrorMemoryAllocation);
  *address = vgpu::reserve_address_space(bytes);
  if (!*address) return vgpu_fail(cudaErrorMemoryAllocation);
  vgpu::remember(*address, bytes, Place::kDevice);
  return cudaSuccess;
}

cudaError_t cudaFree(void* address) {
  if (!address) return cudaSuccess;
  const size_t bytes = vgpu::forget(address);
  if (!bytes) return cudaSuccess;
  vgpu::release_address_space(address, bytes);
  vgpu::give_memory_back(bytes);
  return cudaSuccess;
}

cudaError_t cudaMallocAsync(void** address, size_t bytes, cudaStream_t) { return cudaMalloc(address, bytes); }
cudaError_t cudaFreeAsync(void* address, cudaStream_t) { return cudaFree(address); }

cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) {
  *address = vgpu::reserve_address_space(bytes);
  if (!*address) return vgpu_fail(cudaErrorMemoryAllocation);
  vgpu::remember(*address, bytes, Place::kPinned);
  return cudaSuccess;
}

cudaError_t cudaFreeHost(void* address) {
  if (const size_t bytes = vgpu::forget(address)) vgpu::release_address_space(address, bytes);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void* address, size_t bytes, unsigned) {
  if (vgpu::place_of(address) == Place::kPinned) return cudaErrorHostMemoryAlreadyRegistered;
  vgpu::remember(address, bytes, Place::kPinned);
  return cudaSuccess;
}

cudaError_t cudaHostUnregister(void* address) {
  vgpu::forget(address);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = vgpu::spec().memory_bytes;
  *free_bytes = *total_bytes - vgpu::used_memory();
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found, const void* address) {
  memset(found, 0, sizeof *found);
  const Place place = vgpu::place_of(address);
  found->type = place == Place::kDevice   ? cudaMemoryTypeDevice
                : place == Place::kPinned ? cudaMemoryTypeHost
                                          : cudaMemoryTypeUnregistered;
  found->device = place == Place::kDevice ? vgpu::current_device() : -2;
  found->devicePointer = found->hostPointer = const_cast<void*>(address);
  return cudaSuccess;
}

cudaError_t cudaGetSymbolAddress(void** address, const void*) {
  static void* area = vgpu::reserve_address_space(1 << 20);
  *address = area;
  return cudaSuccess;
}

namespace {

struct Truths {
  std::mutex guard;
  std::unordered_set<const void*> addresses;
};

Truths& truths() {
  static auto* known = new Truths;
  return *known;
}

bool is_trusted(const void* address) {
  std::lock_guard<std::mutex> held(truths().guard);
  return truths().addresses.count(address) != 0;
}

}  // namespace

// Forgotten by none: a block that is used again for a value of the device's own holds the old one, as good as any.
void vgpu::trust_truth(const void* address) {
  std::lock_guard<std::mutex> held(truths().guard);
  truths().addresses.insert(address);
}

namespace {

// Which way a copy goes, from where its ends lie.
cudaMemcpyKind direction(const void* target, const void* source) {
  const bool to_device = vgpu::place_of(target) == Place::kDevice;
  const bool from_device = vgpu::place_of(source) == Place::kDevice;
  if (to_device) return from_device ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice;
  return from_device ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost;
}

const char* name_of(cudaMemcpyKind kind) {
  switch (kind) {
    case cudaMemcpyHostToDevice: return "Memcpy HtoD";
    case cudaMemcpyDeviceToHost: return "Memcpy DtoH";
    case cudaMemcpyDeviceToDevice: return "Memcpy DtoD";
    default: return "Memcpy HtoH";
  }
}

// Pageable memory makes even an asynchronous copy wait: the driver stages it, and reading it back blocks.
bool host_waits(cudaMemcpyKind kind, const void* target, const void* source) {
  if (kind == cudaMemcpyDeviceToHost) return vgpu::place_of(target) != Place::kPinned;
  if (kind == cudaMemcpyHostToDevice) return vgpu::place_of(source) != Place::kPinned;
  return false;
}

// A number that nobody computed holds what lay there before, such as labels of -100 or a mask: as a float that
// is NaN, as a truth value true by chance, and the program would take it for a failure of its own (DeepSpeed's
// "gradients are non-finite", now in one run and now in none). One that the host reads by itself is 0 then.
void settle_number(void* number, const void* source, size_t bytes) {
  if (bytes == 1 && !is_trusted(source)) memset(number, 0, bytes);
  if (bytes == 8) {
    uint64_t bits;
    memcpy(&bits, number, bytes);
    if ((bits & 0x7ff0000000000000ull) == 0x7ff0000000000000ull) memset(number, 0, bytes);
  } else if (bytes == 4) {
    uint32_t bits;
    memcpy(&bits, number, bytes);
    if ((bits & 0x7f800000u) == 0x7f800000u) memset(number, 0, bytes);
  } else if (bytes == 2) {
    uint16_t bits;
    memcpy(&bits, number, bytes);
    if ((bits & 0x7f80u) == 0x7f80u) memset(number, 0, bytes);
  }
}

cudaError_t copy(void* target, const void* source, size_t bytes, const void* stream, bool blocking) {
  const cudaMemcpyKind kind = direction(target, source);
  vgpu::log(vgpu::kCopy, stream, name_of(kind), bytes, kind, blocking || host_waits(kind, target, source));
  vgpu::move_bytes(target, source, bytes);
  if (kind == cudaMemcpyHostToDevice && bytes == 1) vgpu::trust_truth(target);
  if (kind == cudaMemcpyDeviceToHost) settle_number(target, source, bytes);
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind) {
  return copy(target, source, bytes, nullptr, true);
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return copy(target, source, bytes, stream, false);
}

cudaError_t cudaMemcpyPeerAsync(void* target, int, const void* source, int, size_t bytes, cudaStream_t stream) {
  return copy(target, source, bytes, stream, false);
}

cudaError_t cudaMemcpy2DAsync(void* target, size_t target_pitch, const void* source, size_t source_pitch,
                              size_t width, size_t height, cudaMemcpyKind, cudaStream_t stream) {
  const cudaMemcpyKind kind = direction(target, source);
  vgpu::log(vgpu::kCopy, stream, name_of(kind), width * height, kind, host_waits(kind, target, source));
  if (width * height <= (4u << 20))
    for (size_t row = 0; row < height; row++)
      vgpu::move_bytes(static_cast<char*>(target) + row * target_pitch,
                       static_cast<const char*>(source) + row * source_pitch, width);
  return cudaSuccess;
}

cudaError_t cudaMemset(void* address, int value, size_t bytes) {
  return cudaMemsetAsync(address, value, bytes, nullptr);
}

cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t stream) {
  vgpu::log(vgpu::kMemset, stream, "Memset", bytes);
  if (bytes <= (4u << 20)) memset(address, value, bytes);
  return cudaSuccess;
}
