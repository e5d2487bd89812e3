// Memory as address space: what is in use is counted, and only what the host touches takes room.
#include "device.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <mutex>
#include <sys/mman.h>

namespace vgpu {
namespace {

// Larger copies are tensors, whose values nobody reads here.
constexpr size_t kMovedBytes = 4u << 20;

struct Block {
  size_t bytes;
  Place place;
};

std::mutex& guard() {
  static auto* mutex = new std::mutex;
  return *mutex;
}

std::map<uintptr_t, Block>& blocks() {
  static auto* known = new std::map<uintptr_t, Block>;
  return *known;
}

std::atomic<size_t>& in_use() {
  static auto* bytes = new std::atomic<size_t>(spec().context_bytes);
  return *bytes;
}

// The block that holds an address; end() when none does.
std::map<uintptr_t, Block>::iterator block_around(const void* address) {
  auto& known = blocks();
  const auto at = reinterpret_cast<uintptr_t>(address);
  auto found = known.upper_bound(at);
  if (found == known.begin()) return known.end();
  --found;
  return at < found->first + found->second.bytes ? found : known.end();
}

}  // namespace

void* reserve_address_space(size_t bytes) {
  const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  void* address = mmap(nullptr, std::max<size_t>(bytes, 1), PROT_READ | PROT_WRITE, flags, -1, 0);
  return address == MAP_FAILED ? nullptr : address;
}

void release_address_space(void* address, size_t bytes) { munmap(address, std::max<size_t>(bytes, 1)); }

bool take_memory(size_t bytes) {
  size_t used = in_use().load();
  do {
    if (bytes > spec().memory_bytes - used) {
      log(kMemory, nullptr, "", used, 0, bytes, 1);
      flush_log();
      return false;
    }
  } while (!in_use().compare_exchange_weak(used, used + bytes));
  log(kMemory, nullptr, "", used + bytes, 0, bytes, 0);
  return true;
}

void give_memory_back(size_t bytes) { log(kMemory, nullptr, "", in_use() -= bytes, 0, 0, 0); }

size_t used_memory() { return in_use().load(); }

Place place_of(const void* address) {
  std::lock_guard<std::mutex> held(guard());
  const auto found = block_around(address);
  return found == blocks().end() ? Place::kElsewhere : found->second.place;
}

void remember(void* address, size_t bytes, Place place) {
  std::lock_guard<std::mutex> held(guard());
  blocks()[reinterpret_cast<uintptr_t>(address)] = Block{bytes, place};
}

size_t forget(void* address) {
  std::lock_guard<std::mutex> held(guard());
  const auto found = blocks().find(reinterpret_cast<uintptr_t>(address));
  if (found == blocks().end()) return 0;
  const size_t bytes = found->second.bytes;
  blocks().erase(found);
  return bytes;
}

bool find_block(const void* address, void** base, size_t* bytes) {
  std::lock_guard<std::mutex> held(guard());
  const auto found = block_around(address);
  if (found == blocks().end()) return false;
  if (base) *base = reinterpret_cast<void*>(found->first);
  if (bytes) *bytes = found->second.bytes;
  return true;
}

void move_bytes(void* target, const void* source, size_t bytes) {
  if (bytes && bytes <= kMovedBytes && target != source) memmove(target, source, bytes);
}

void* new_handle() {
  static std::atomic<uintptr_t> last{0x1000};
  return reinterpret_cast<void*>(last += 16);
}

}  // namespace vgpu
