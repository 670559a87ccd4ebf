// The widest instruction set that was compiled and that this processor has, and its caches.
#include "cpu/processor.h"

#include <cstdio>
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

// As the operating system shows it: glibc's sysconf adds up the last-level caches of a whole
// machine on some processors.
static int64_t size_of_cache(int index, int64_t otherwise) {
  char path[64];
  std::snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
  std::FILE* file = std::fopen(path, "r");
  if (!file) return otherwise;
  long long size = 0;
  char unit = 0;
  const int read = std::fscanf(file, "%lld%c", &size, &unit);
  std::fclose(file);
  if (read < 1 || size <= 0) return otherwise;
  return int64_t(size) * (unit == 'M' ? 1 << 20 : unit == 'K' ? 1 << 10 : 1);
}

const Caches& caches() {
  static const Caches here{.second = size_of_cache(2, 1 << 19), .last = size_of_cache(3, 1 << 24)};
  return here;
}

}  // namespace mpk::cpu
