// Chooses, once, the widest instruction set that was compiled and that this processor has.
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

static const Kernels& choose() {
  if (__builtin_cpu_supports("x86-64-v4")) return avx512::table;
  if (__builtin_cpu_supports("x86-64-v3")) return avx2::table;
  return x86_64::table;
}
#else
namespace portable {
extern const Kernels table;
}

static const Kernels& choose() { return portable::table; }
#endif

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace mpk::cpu
