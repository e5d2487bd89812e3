// What every part of the virtual device shares: its configuration, its log, its memory.
//
// The device answers the CUDA runtime and driver, cuBLAS, NCCL and NVML. Memory is reserved address space,
// so pointers are real and torch's own allocator works on them; kernels are written to a log, not run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What these declare is found by its name; all else in the library is its own.
#pragma GCC visibility push(default)
#include <cuda.h>
#include <cuda_runtime_api.h>
#pragma GCC visibility pop

// A function that CUDA's, NCCL's or NVML's users find by its name.
#define VGPU_EXPORT extern "C" __attribute__((visibility("default")))

namespace vgpu {

// A dimension of the mesh: so many ranks at that distance.
struct Dimension {
  int size;
  int stride;
};

// What the environment (TGSBENCH_VGPU_*) says of the device; see spec.cpp for each variable.
struct Spec {
  std::string name;       // as a driver reports it
  size_t memory_bytes;    // what torch sees as the card's total
  size_t context_bytes;   // of it, what a CUDA context takes before torch asks for any
  int compute_major;
  int compute_minor;
  int multiprocessors;
  int num_devices;
  std::vector<Dimension> dimensions;
  std::string log_folder;  // empty: nothing is logged
};
const Spec& spec();

// Kinds of records; tgsbench/virtual_gpu/log.py reads them.
enum Kind : uint8_t {
  kName = 1,         // args: number, bytes of the text that follows, padded to whole records
  kKernel = 2,       // args: grid x, grid y | z << 32, threads of a block | dynamic shared bytes << 32, elements
  kGemm = 3,         // args: m, n, k, batch
  kCopy = 4,         // args: bytes, direction (cudaMemcpyKind), 1 where the host waits, 0
  kMemset = 5,       // args: bytes
  kCollective = 6,   // args: bytes, communicator, group call, peer or root + 1
  kEventRecord = 7,  // args: event
  kStreamWait = 8,   // args: event
  kSynchronize = 9,  // args: 0 device, 1 stream, 2 event; event
  kMemory = 10,      // args: bytes in use on the device, 0, bytes asked for, 1 where they were refused
  kCommunicator = 11,  // args: communicator, ranks, this rank's place, parent
  kUnknown = 12,     // a call that the device does not know, by name
};

// One line of the log, as it lies in the file (64 bytes, little endian).
struct Record {
  uint8_t kind;
  uint8_t device;
  uint16_t thread;
  uint32_t name;
  uint64_t t_ns;    // CLOCK_MONOTONIC, as the events of a rank
  uint64_t cpu_ns;  // processor time of the process
  uint64_t stream;
  uint64_t args[4];
};
static_assert(sizeof(Record) == 64, "the log's readers count on it");

// Append a record of this moment.
void log(Kind kind, const void* stream, const std::string& name, uint64_t a = 0, uint64_t b = 0,
         uint64_t c = 0, uint64_t d = 0);
// Write out what is buffered.
void flush_log();
// Note that somebody called what the device does not know.
void unknown_call(const char* name);

// Current device of this thread.
int current_device();

// Address space that stands for memory; nullptr when there is none left.
void* reserve_address_space(size_t bytes);
void release_address_space(void* address, size_t bytes);
// Count bytes against the card; false when it is full.
bool take_memory(size_t bytes);
void give_memory_back(size_t bytes);
size_t used_memory();
// Is it memory of the device, pinned memory of the host, or neither?
enum class Place { kElsewhere, kDevice, kPinned };
Place place_of(const void* address);
void remember(void* address, size_t bytes, Place place);
// Bytes that were remembered there; 0 for none.
size_t forget(void* address);
// The block around an address and its size; false when it is no block of ours.
bool find_block(const void* address, void** base, size_t* bytes);
// Move small data for real: sizes, flags and tokens that the host reads back.
void move_bytes(void* target, const void* source, size_t bytes);

// A fresh handle for a stream, event, module or communicator.
void* new_handle();

// Give a kernel its name, for launches by that handle.
void register_kernel(const void* handle, const char* name, const void* built_for = nullptr);
struct Launch {
  dim3 grid;
  dim3 block;
  size_t shared_bytes;
  void** args;
};
void log_launch(const void* handle, const void* stream, const Launch& launch);

// Bytes of an element that a kernel of this name fills with (int count, value, address); 0: it is no such kernel.
size_t width_of_fill(const std::string& kernel);
// Do that fill, where it is small.
void fill(size_t width, void** args);
// From now on a truth value at this address is somebody's own, and not what lay there before.
void trust_truth(const void* address);

}  // namespace vgpu
