// The table of kernels that each instruction set provides, and the choice among them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "problem.h"

namespace mpk::cpu {

// Every kernel works on samples [begin, end) (rows for gate_weight_gradients) and may use
// `scratch`, of at least the bytes that its `..._scratch` function asks for, 64-byte aligned.
struct Kernels {
  const char* name;
  void (*cross_connect)(const CrossConnect&, int64_t begin, int64_t end, void* scratch);
  void (*cross_connect_backward)(const CrossConnectBackward&, int64_t begin, int64_t end,
                                 void* scratch);
  void (*gate_weight_gradients)(const GateWeightGradients&, int64_t begin, int64_t end);
  void (*mix)(const Mix&, int64_t begin, int64_t end, void* scratch);
  void (*mix_backward)(const MixBackward&, int64_t begin, int64_t end, void* scratch);
};

// Doubles are the widest accumulate dtype, so these bounds hold for every dtype.
inline size_t cross_connect_scratch(int64_t hidden) { return sizeof(double) * hidden; }
inline size_t cross_connect_backward_scratch(int64_t inputs, int64_t outputs, int64_t channels) {
  return sizeof(double) * (3 * inputs * outputs + inputs * channels);
}
inline size_t mix_scratch(int64_t inputs, int64_t outputs, int64_t channels) {
  return sizeof(double) * inputs * outputs * channels;
}

// The table in use: the best one for this processor, unless `choose` was called.
const Kernels& kernels();

// Uses the named instruction set (null: the best), or returns false where it cannot run here.
bool choose(const char* name);

}  // namespace mpk::cpu
