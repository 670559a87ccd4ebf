// The operators' schemas, which a process without Python gets with this library, and the settings
// of the CPU kernels.
#include "cpu/kernels.h"
#include "cpu/switched.h"

namespace mpk::cpu {
namespace {

// Uses the named instruction set from now on ("best": the widest; empty: the one in use), and
// returns the name of the one in use.
std::string instruction_set(std::string name) {
  if (!name.empty())
    STD_TORCH_CHECK(choose(name == "best" ? nullptr : name.c_str()), "instruction set ", name,
                    " was not compiled or cannot run on this processor");
  return kernels().name;
}

// Tells the kernels whether a backend is forced anywhere from now on.
bool force(bool on) {
  forcing.store(on, std::memory_order_relaxed);
  return on;
}

std::string by_python(std::string schema) { return schema.insert(schema.find('('), "_by_python"); }

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY(mpkernels, library) {
  // What Python runs for C++ has schemas here too: where there is no Python, a call fails in order.
#define OPERATOR(schema) \
  library.def(schema);   \
  library.def(mpk::cpu::by_python(schema).c_str());
#include "../mpkernels/ops/schemas.def"
#undef OPERATOR
  library.def("served_by(str name, str device) -> str");
  library.def("error_of_python() -> str");
  library.def("instruction_set(str name) -> str");
  library.def("forcing(bool on) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CompositeExplicitAutograd, library) {
  library.impl("instruction_set", &mpk::boxed<&mpk::cpu::instruction_set>);
  library.impl("forcing", &mpk::boxed<&mpk::cpu::force>);
}
