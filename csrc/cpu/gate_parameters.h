// A gate's parameters as the CPU kernels read them, and their gradients.
#pragma once

#include <cstring>

#include "cpu/tasks.h"
#include "gate_tensors.h"

namespace mpk::cpu {

template <class A>
inline void transpose_each(const void* from, const Buffer& to, int64_t m, int64_t rows,
                           int64_t cols) {
  const A* source = static_cast<const A*>(from);
  A* target = static_cast<A*>(to.data_ptr());
  for (int64_t i = 0; i < m; i++, source += rows * cols, target += rows * cols)
    for (int64_t c = 0; c < cols; c++)
      for (int64_t r = 0; r < rows; r++) target[c * rows + r] = source[r * cols + c];
}

// Beside what users pass: W1 with its channels outside, and zeros for biases that are None.
class CpuGate : public GateTensors {
 public:
  CpuGate(const std::vector<OptionalTensor>& gate, int64_t kind, int64_t m, int64_t channels,
          Dtype type)
      : GateTensors(gate, kind, m, channels, type),
        w1_by_channel_(m * channels * hidden, type),
        zeros_(m * (hidden > outputs ? hidden : outputs), type),
        parameters_(GateTensors::parameters()) {
    if (type == Dtype::f64)
      transpose_each<double>(parameters_.w1, w1_by_channel_, m, hidden, channels);
    else
      transpose_each<float>(parameters_.w1, w1_by_channel_, m, hidden, channels);
    parameters_.w1_by_channel = w1_by_channel_.data_ptr();
    if (parameters_.b1 && parameters_.b2) return;
    const int64_t size = m * (hidden > outputs ? hidden : outputs);
    std::memset(zeros_.data_ptr(), 0, size_t(size) * (type == Dtype::f64 ? 8 : 4));
    if (!parameters_.b1) parameters_.b1 = zeros_.data_ptr();
    if (!parameters_.b2) parameters_.b2 = zeros_.data_ptr();
  }

  const GateParameters& parameters() const { return parameters_; }

 private:
  Buffer w1_by_channel_, zeros_;
  GateParameters parameters_;
};

// What the batch loop leaves for the gradients of the gates' parameters.
struct GateGradients {
  Buffer grad_logits, grad_hidden, hidden;
  GateGradients(int64_t batch, const GateTensors& gate, Dtype type)
      : grad_logits(batch * gate.inputs * gate.outputs, type),
        grad_hidden(batch * gate.inputs * gate.hidden, type),
        hidden(batch * gate.inputs * gate.hidden, type) {}

  // Writes dW1, db1, dW2 and db2, the gradients from `first` on, as far as they are wanted.
  void sum(const Geometry& geometry, const GateTensors& gate, const void* pooled,
           const ParameterGradients& grads, size_t first) const {
    const GateRests rests{.pooled = pooled,
                          .grad_logits = grad_logits.data_ptr(),
                          .grad_hidden = grad_hidden.data_ptr(),
                          .hidden = hidden.data_ptr()};
    const GateWeightGradients problem = gate_weight_gradients(geometry, gate, rests, grads, first);
    if (any(problem)) run(problem);
  }

  // The backward of the gates alone: dZ, and what `sum` adds up.
  void differentiate(const Geometry& geometry, const CpuGate& gate, const void* grad_gates,
                     const void* gates, const void* pooled, void* grad_pooled) const {
    const std::vector<Map> none(gate.inputs);
    run(CrossConnectBackward{.geometry = geometry,
                             .gate = gate.parameters(),
                             .xs = none.data(),
                             .grad_ys = nullptr,
                             .output_of = nullptr,
                             .present = 0,
                             .grad_xs = none.data(),
                             .grad_gates = grad_gates,
                             .gates = gates,
                             .pooled = pooled,
                             .grad_pooled = grad_pooled,
                             .grad_logits = grad_logits.data_ptr(),
                             .grad_hidden = grad_hidden.data_ptr(),
                             .hidden = hidden.data_ptr(),
                             .parameters_wanted = true},
        2 * gate.inputs);
  }
};

}  // namespace mpk::cpu
