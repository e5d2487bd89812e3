// The device's configuration, from the environment that the launcher sets.
#include "device.h"

#include <cstdio>
#include <cstdlib>
#include <sstream>

namespace vgpu {
namespace {

std::string text(const char* name, const char* fallback) {
  const char* value = getenv(name);
  return value && *value ? value : fallback;
}

long long number(const char* name, long long fallback) {
  const char* value = getenv(name);
  return value && *value ? atoll(value) : fallback;
}

// SIZExSTRIDE, separated by commas.
std::vector<Dimension> dimensions(const std::string& list) {
  std::vector<Dimension> found;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) {
    Dimension dimension{};
    if (sscanf(word.c_str(), "%dx%d", &dimension.size, &dimension.stride) == 2 && dimension.stride > 0)
      found.push_back(dimension);
  }
  return found;
}

Spec read() {
  const int compute = static_cast<int>(number("TGSBENCH_VGPU_COMPUTE", 90));
  return Spec{
      text("TGSBENCH_VGPU_NAME", "tgsbench virtual GPU"),
      static_cast<size_t>(number("TGSBENCH_VGPU_MEMORY", 80LL << 30)),
      static_cast<size_t>(number("TGSBENCH_VGPU_CONTEXT", 0)),
      compute / 10,
      compute % 10,
      static_cast<int>(number("TGSBENCH_VGPU_MULTIPROCESSORS", 132)),
      static_cast<int>(number("TGSBENCH_VGPU_DEVICES", 1)),
      dimensions(text("TGSBENCH_VGPU_MESH", "")),
      text("TGSBENCH_VGPU_LOG", ""),
  };
}

}  // namespace

const Spec& spec() {
  static const Spec* known = new Spec(read());
  return *known;
}

}  // namespace vgpu
