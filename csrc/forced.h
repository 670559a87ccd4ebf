// Whether C++ may run an operator, or Python has to: while a backend is forced
// (mpkernels/ops/switch.py).
//
// Kernels stay registered for good: a switch must not take from another thread what it is running.
// A process without Python never forces anything, so there this costs one load.
#pragma once

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "boxed.h"

namespace mpk {

// Whether any thread, or the process, has a backend other than "auto".
inline std::atomic<bool> forcing{false};

// A text as a template's argument.
template <size_t size>
struct Name {
  char text[size];
  constexpr Name(const char (&from)[size]) { std::copy_n(from, size, text); }
};

// What an operator of Python's returns, which takes the place of its arguments.
inline std::string text_of_python(const std::string& name, StableIValue* stack) {
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher(("mpkernels::" + name).c_str(), "", stack, TORCH_ABI_VERSION));
  return torch::stable::detail::to<std::string>(stack[0]);
}

inline std::string error_of_python() {
  StableIValue text[1];
  return text_of_python("error_of_python", text);
}

// Whether the C++ kernel of the operator for such a device runs. It is asked while `forcing`.
inline bool may_run(const std::string& name, const std::string& device) {
  StableIValue arguments[] = {torch::stable::detail::from(name),
                              torch::stable::detail::from(device)};
  const std::string answer = text_of_python("served_by", arguments);
  if (answer[0] == '!') throw std::runtime_error(answer.substr(1));
  return answer == "here";
}

// Torch's shim shows only a code of an error: Python then returns nothing, and is asked for the
// text.
inline void run_in_python(const std::string& name, StableIValue* stack) {
  const std::string operation = "mpkernels::" + name + "_by_python";
  if (torch_call_dispatcher(operation.c_str(), "", stack, TORCH_ABI_VERSION) != AOTI_TORCH_SUCCESS)
    throw std::runtime_error("mpkernels." + name +
                             ": there is no Python here, which has to run it");
  size_t results = 0;
  check(torch_list_size(torch::stable::detail::to<StableListHandle>(stack[0]), &results));
  if (results > 0) return;
  const std::string error = error_of_python();
  if (error.empty()) return;
  const List nothing(torch::stable::detail::to<StableListHandle>(stack[0]));
  throw std::runtime_error(error);
}

}  // namespace mpk
