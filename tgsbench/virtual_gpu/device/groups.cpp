// How many ranks a split communicator has. NCCL is told a colour, whose other holders nobody here can count. But
// torch.distributed.new_group hashes the ranks to a colour, so the regular groups around this rank are tried;
// split_group takes the first rank for it, and the launcher says which dimensions the mesh has.
#include "groups.h"

#include "device.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace vgpu {
namespace {

constexpr int64_t kLargestInt = std::numeric_limits<int32_t>::max();

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

int first_of(int rank, int size, int stride) { return rank - rank / stride % size * stride; }

std::vector<int> regular_group(int rank, int size, int stride) {
  const int first = first_of(rank, size, stride);
  std::vector<int> ranks;
  for (int i = 0; i < size; i++) ranks.push_back(first + i * stride);
  return ranks;
}

int by_hash(int color, int world, int rank) {
  for (int size = world; size >= 1; size--) {
    if (world % size) continue;
    for (int stride = 1; stride * size <= world; stride++) {
      const std::vector<int> ranks = regular_group(rank, size, stride);
      if (ranks.back() < world && color == color_of_new_group(ranks)) return size;
    }
  }
  return 0;
}

// A mesh splits its dimensions in their order, and does not split one that is the whole world.
int by_first_rank(int color, int place, int world, int rank) {
  static auto* left = new std::vector<Dimension>(spec().dimensions);
  for (auto dimension = left->begin(); dimension != left->end(); ++dimension) {
    const auto [size, stride] = *dimension;
    const bool fits = size != world && first_of(rank, size, stride) == color && rank / stride % size == place;
    if (!fits) continue;
    left->erase(dimension);
    return size;
  }
  return 0;
}

}  // namespace

int ranks_of_split(int color, int place, int world, int rank) {
  const int ranks = by_hash(color, world, rank);
  return ranks ? ranks : by_first_rank(color, place, world, rank);
}

}  // namespace vgpu
