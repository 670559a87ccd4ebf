// Sizes of this processor's caches, as the operating system shows them. glibc's sysconf adds up the
// last-level caches of a whole machine on some processors.
#include <cstdio>

#include "cpu/groups.h"

namespace mpk::cpu {

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
