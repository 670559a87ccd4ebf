// The kernels that each instruction set provides, the scratch memory they need, and their tasks.
#pragma once

#include <bit>
#include <cstdint>

#include "cpu/processor.h"
#include "problem.h"

namespace mpk::cpu {

// cross_connect, its backward, mix and its backward work on samples [begin, end). A sample alone
// is worth several threads where it is large: then its channels [begin, end) are pooled, its gates
// computed, and its parts [begin, end) mixed; backward, <dY_j, X_i> of its parts summed to
// `partial` [parts, m, present], the gates differentiated, and dX of its parts written.
// combine and its backward work on parts [begin, end) of all samples, numbered sample by sample.
// predict and predict_grads (dX) work on samples; its weights' gradients, those of the gates and
// those of combine's parameters on tasks, see `predict_tasks`, `weight_tasks` and `combine_tasks`.
// `scratch` is 64-byte aligned and has at least the size that its `..._scratch` function asks for.
//
// Each entry is a kernel's name and the arguments it takes. kernels.cpp declares the kernels from
// this list and fills the table by name: written out, neighbours of one type could be swapped, and
// it would compile.
#define MPK_KERNELS(KERNEL)                                                                       \
  KERNEL(cross_connect, const CrossConnect&, int64_t begin, int64_t end, void* scratch)           \
  KERNEL(cross_connect_pool, const CrossConnect&, int64_t sample, int64_t begin, int64_t end)     \
  KERNEL(cross_connect_gates, const CrossConnect&, int64_t sample, void* scratch)                 \
  KERNEL(cross_connect_mix, const CrossConnect&, int64_t sample, int64_t begin, int64_t end)      \
  KERNEL(cross_connect_backward, const CrossConnectBackward&, int64_t begin, int64_t end,         \
         void* scratch)                                                                           \
  KERNEL(cross_connect_dots, const CrossConnectBackward&, int64_t sample, int64_t begin,          \
         int64_t end, void* partial)                                                              \
  KERNEL(cross_connect_differentiate, const CrossConnectBackward&, int64_t sample, void* partial, \
         void* scratch)                                                                           \
  KERNEL(cross_connect_grads, const CrossConnectBackward&, int64_t sample, int64_t begin,         \
         int64_t end, void* scratch)                                                              \
  KERNEL(gate_weight_gradients, const GateWeightGradients&, int64_t begin, int64_t end)           \
  KERNEL(mix, const Mix&, int64_t begin, int64_t end, void* scratch)                              \
  KERNEL(mix_backward, const MixBackward&, int64_t begin, int64_t end, void* scratch)             \
  KERNEL(combine, const Combine&, int64_t begin, int64_t end, void* scratch)                      \
  KERNEL(combine_backward, const CombineBackward&, int64_t begin, int64_t end, void* scratch)     \
  KERNEL(combine_parameter_gradients, const CombineParameterGradients&, int64_t begin,            \
         int64_t end)                                                                             \
  KERNEL(predict, const Predict&, int64_t begin, int64_t end)                                     \
  KERNEL(predict_grads, const PredictBackward&, int64_t begin, int64_t end)                       \
  KERNEL(predict_weight_gradients, const PredictBackward&, int64_t begin, int64_t end)

struct Kernels {
  const char* name;
#define MPK_POINTER(name, ...) void (*name)(__VA_ARGS__);
  MPK_KERNELS(MPK_POINTER)
#undef MPK_POINTER
};

// Levels of the sums of a sample's parts, which are added in pairs.
inline int64_t part_levels(const Geometry& geometry) {
  return std::bit_width(uint64_t(parts(geometry)));
}

// In values of double, the widest accumulate dtype.
inline int64_t cross_connect_scratch(const CrossConnect& p) { return most_samples * p.gate.hidden; }
inline int64_t cross_connect_backward_scratch(const CrossConnectBackward& p) {
  const int64_t m = p.gate.inputs, n = p.gate.outputs;
  const int64_t group = group_size(p.geometry, 2 * m + p.present);
  return group * m * (3 * n + p.geometry.channels) + (1 + part_levels(p.geometry)) * m * n;
}
inline int64_t mix_scratch(int64_t inputs, int64_t outputs, int64_t channels) {
  return inputs * outputs * channels;
}

// Gates, and for the backward two rows of channels for each output and two vectors of up to 64
// bytes for each gate.
inline int64_t combine_scratch(const Predictions& p) {
  const int64_t gates = p.inputs * p.outputs;
  return 16 * gates + gates + 2 * p.outputs * p.geometry.channels;
}

// 64 channels of an output are a task; the last task are the gates.
inline int64_t combine_tasks(const Predictions& p) {
  return p.outputs * ((p.geometry.channels + 63) / 64) + 1;
}

// Eight hidden units of a path are a task, the first of a path takes its logits too.
inline int64_t weight_tasks(int64_t inputs, int64_t hidden) { return inputs * ((hidden + 7) / 8); }

// Eight rows of a path's weight are a task.
inline int64_t predict_tasks(int64_t inputs, int64_t rows) { return inputs * ((rows + 7) / 8); }

}  // namespace mpk::cpu
