// Which ranks a split communicator has. NCCL is told a colour, whose other holders nobody here can count; but
// torch makes the colour of the ranks, so the regular groups around this rank are tried.
#include "groups.h"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>

namespace vgpu {
namespace {

constexpr int64_t kLargestInt = std::numeric_limits<int32_t>::max();

// ProcessGroupNCCL's own, for torch.distributed.split_group: hashes combined as boost does.
int color_of_split(const std::vector<int>& ranks) {
  size_t hash = 0;
  for (const int rank : ranks) hash ^= static_cast<size_t>(rank) + 0x9e3779b9 + (hash << 6) + (hash >> 2);
  return static_cast<int>(hash % static_cast<size_t>(kLargestInt));
}

// Python's hash of a tuple of small integers (xxHash's mixing), for torch.distributed.new_group.
int color_of_new_group(const std::vector<int>& ranks) {
  constexpr uint64_t kOne = 11400714785074694791ull, kTwo = 14029467366897019727ull, kFive = 2870177450012600261ull;
  uint64_t hash = kFive;
  for (const int rank : ranks) {
    hash += static_cast<uint64_t>(rank) * kTwo;
    hash = (hash << 31 | hash >> 33) * kOne;
  }
  hash += ranks.size() ^ (kFive ^ 3527539ull);
  if (hash == ~uint64_t{0}) hash = 1546275796;
  const auto value = static_cast<int64_t>(hash);
  const uint64_t positive = value < 0 ? 0 - hash : hash;
  return static_cast<int>(positive % (static_cast<uint64_t>(kLargestInt) + 1));
}

std::vector<int> regular_group(int rank, int size, int stride) {
  const int first = rank - rank / stride % size * stride;
  std::vector<int> ranks;
  for (int i = 0; i < size; i++) ranks.push_back(first + i * stride);
  return ranks;
}

}  // namespace

std::vector<int> ranks_of_color(int color, int world, int rank) {
  for (int size = world; size >= 1; size--) {
    if (world % size) continue;
    for (int stride = 1; stride * size <= world; stride++) {
      const std::vector<int> ranks = regular_group(rank, size, stride);
      if (ranks.back() >= world) continue;
      if (color == color_of_split(ranks) || color == color_of_new_group(ranks)) return ranks;
    }
  }
  return {};
}

}  // namespace vgpu
