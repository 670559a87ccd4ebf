// Chooses the widest instruction set that was compiled and that this processor has.
#include <cstring>

#include "cpu/kernels.h"

namespace mpk::cpu {

#ifdef MPK_HAS_x86_64
namespace x86_64 {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}

static const Kernels* usable(int position) {
  switch (position) {  // best first
    case 0:
      return __builtin_cpu_supports("x86-64-v4") ? &avx512::table : nullptr;
    case 1:
      return __builtin_cpu_supports("x86-64-v3") ? &avx2::table : nullptr;
    default:
      return &x86_64::table;
  }
}
constexpr int tables = 3;
#else
namespace portable {
extern const Kernels table;
}

static const Kernels* usable(int) { return &portable::table; }
constexpr int tables = 1;
#endif

static const Kernels* find(const char* name) {
  for (int position = 0; position < tables; position++) {
    const Kernels* table = usable(position);
    if (table && (!name || std::strcmp(name, table->name) == 0)) return table;
  }
  return nullptr;
}

static const Kernels*& chosen() {
  static const Kernels* table = find(nullptr);
  return table;
}

const Kernels& kernels() { return *chosen(); }

bool choose(const char* name) {
  const Kernels* table = find(name);
  if (table) chosen() = table;
  return table != nullptr;
}

}  // namespace mpk::cpu
