// The device's configuration, from the environment that the launcher sets.
#include "device.h"

#include <cstdlib>
#include <stdexcept>

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
      text("TGSBENCH_VGPU_LOG", ""),
  };
}

}  // namespace

const Spec& spec() {
  static const Spec* known = new Spec(read());
  return *known;
}

}  // namespace vgpu
