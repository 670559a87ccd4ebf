// Kernels that give way to Python while a backend is forced (mpkernels/ops/switch.py).
//
// They stay registered for good: a switch must not take from another thread what it is running. A
// process without Python never forces anything, so there this costs one load.
#pragma once

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "boxed.h"

namespace mpk::cpu {

// Whether any thread, or the process, has a backend other than "auto".
inline std::atomic<bool> forcing{false};

// The name of an operator as a template's argument.
template <size_t size>
struct Name {
  char text[size];
  constexpr Name(const char (&from)[size]) { std::copy_n(from, size, text); }
};

// Calls an operator of Python's, whose result takes the place of its arguments.
inline void call_python(const std::string& name, StableIValue* stack) {
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher(("mpkernels::" + name).c_str(), "", stack, TORCH_ABI_VERSION));
}

inline std::string text_of_python(const std::string& name, StableIValue* stack) {
  call_python(name, stack);
  return torch::stable::detail::to<std::string>(stack[0]);
}

// Whether Python has run the operator.
//
// Torch's shim shows only a code of an error: Python then returns nothing, and is asked for the
// text.
inline bool run_by_python(const std::string& name, StableIValue* stack) {
  StableIValue argument[] = {torch::stable::detail::from(name)};
  const std::string answer = text_of_python("served_by", argument);
  if (answer == "native") return false;
  if (answer[0] == '!') throw std::runtime_error(answer.substr(1));
  call_python(name + "_by_python", stack);
  size_t results = 0;
  check(torch_list_size(torch::stable::detail::to<StableListHandle>(stack[0]), &results));
  if (results > 0) return true;
  StableIValue text[1];
  const std::string error = text_of_python("error_of_python", text);
  if (error.empty()) return true;
  const List nothing(torch::stable::detail::to<StableListHandle>(stack[0]));
  throw std::runtime_error(error);
}

template <Name name, auto function>
void switched(StableIValue* stack, uint64_t arguments, uint64_t results) {
  if (forcing.load(std::memory_order_relaxed) && run_by_python(name.text, stack)) return;
  boxed<function>(stack, arguments, results);
}

}  // namespace mpk::cpu
