// How many ranks a split communicator has.
#pragma once

namespace vgpu {

// Ranks of the group that a rank of `world` gets by a colour and its place there; 0 when that cannot be told.
int ranks_of_split(int color, int place, int world, int rank);

}  // namespace vgpu
