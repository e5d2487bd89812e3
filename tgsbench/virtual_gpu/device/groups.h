// Which ranks a split communicator has, from the colour that torch made of them.
#pragma once

#include <vector>

namespace vgpu {

// Ranks of the regular group (every stride-th rank) around `rank` with this colour; empty when none has it.
std::vector<int> ranks_of_color(int color, int world, int rank);

}  // namespace vgpu
