// CPU kernels that give way to Python while a backend is forced.
#pragma once

#include "forced.h"

namespace mpk::cpu {

template <Name name, auto function>
void switched(StableIValue* stack, uint64_t arguments, uint64_t results) {
  if (forcing.load(std::memory_order_relaxed) && !may_run(name.text, "cpu"))
    run_in_python(name.text, stack);
  else
    boxed<function>(stack, arguments, results);
}

}  // namespace mpk::cpu
