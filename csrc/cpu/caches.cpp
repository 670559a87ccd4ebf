#include <unistd.h>

#include "cpu/groups.h"

namespace mpk::cpu {

static int64_t size_or(int name, int64_t otherwise) {
  const int64_t found = sysconf(name);
  return found > 0 ? found : otherwise;
}

const Caches& caches() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const Caches found{size_or(_SC_LEVEL2_CACHE_SIZE, 1 << 19),
                            size_or(_SC_LEVEL3_CACHE_SIZE, 1 << 24)};
#else
  static const Caches found{1 << 19, 1 << 24};
#endif
  return found;
}

}  // namespace mpk::cpu
