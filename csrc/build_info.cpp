// What was compiled and how, and which instruction sets this processor has and uses.
#include <pybind11/pybind11.h>

#include <string>

#if defined(__clang__)
#define MPK_COMPILER "clang " __VERSION__
#elif defined(__GNUC__)
#define MPK_COMPILER "gcc " __VERSION__
#else
#define MPK_COMPILER "unknown"
#endif

namespace {

pybind11::list split(const std::string& text) {
  pybind11::list parts;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    parts.append(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

bool supported(const std::string& instruction_set) {
#if defined(__x86_64__)
  if (instruction_set == "avx2") return __builtin_cpu_supports("x86-64-v3");
  if (instruction_set == "avx512") return __builtin_cpu_supports("x86-64-v4");
#endif
  return true;
}

pybind11::dict info() {
  pybind11::list compiled = split(MPK_INSTRUCTION_SETS), usable;
  for (auto name : compiled)
    if (supported(name.cast<std::string>())) usable.append(name);
  pybind11::dict result;
  result["compiler"] = MPK_COMPILER;
  result["flags"] = MPK_FLAGS;
  result["instruction_sets"] = compiled;
  result["instruction_set"] = usable[usable.size() - 1];
  result["cuda_architectures"] = split(MPK_CUDA_ARCHITECTURES);
  result["torch"] = MPK_TORCH;
  return result;
}

}  // namespace

PYBIND11_MODULE(_build, module) {
  module.doc() = "What the compiled parts of mpkernels were built from and for.";
  module.def("info", &info, "Compiler, flags, instruction sets, CUDA architectures and torch.");
}
