// Between torch's tensors and the gates that the kernels read and differentiate.
#pragma once

#include <cstring>

#include "cpu/tasks.h"
#include "gradients.h"

namespace mpk::cpu {

// The gates' parameters as the kernels read them, and the memory that holds them.
struct GateTensors {
  Values w1, w2;
  std::optional<Values> b1, b2;
  Buffer w1_by_channel, zeros;
  GateParameters parameters;
};

template <class A>
inline void transpose_each(const Values& from, const Buffer& to, int64_t m, int64_t rows,
                           int64_t cols) {
  const A* source = static_cast<const A*>(from.data_ptr());
  A* target = static_cast<A*>(to.data_ptr());
  for (int64_t i = 0; i < m; i++, source += rows * cols, target += rows * cols)
    for (int64_t c = 0; c < cols; c++)
      for (int64_t r = 0; r < rows; r++) target[c * rows + r] = source[r * cols + c];
}

// Rejects whatever mpkernels/ops/check.py rejects; check.py then produces the message.
inline GateTensors gate_tensors(const Geometry& geometry, int64_t m, const Tensor& w1,
                                const OptionalTensor& b1, const Tensor& w2,
                                const OptionalTensor& b2) {
  const Dtype type = accumulate_type(geometry.dtype);
  STD_TORCH_CHECK(w1.dim() == 3 && w1.size(1) > 0, "w1 must be [m, K, C]");
  STD_TORCH_CHECK(w2.dim() == 3 && w2.size(1) > 0, "w2 must be [m, n, K]");
  const int64_t hidden = w1.size(1), n = w2.size(1), channels = geometry.channels;
  STD_TORCH_CHECK(w1.has_shape({m, hidden, channels}), "w1 must be [m, K, C]");
  STD_TORCH_CHECK(w2.has_shape({m, n, hidden}), "w2 must be [m, n, K]");
  STD_TORCH_CHECK(!b1 || b1->has_shape({m, hidden}), "b1 must be [m, K]");
  STD_TORCH_CHECK(!b2 || b2->has_shape({m, n}), "b2 must be [m, n]");
  const int64_t none = (b1 ? 0 : m * hidden) + (b2 ? 0 : m * n);
  GateTensors gate{.w1 = Values(w1, type),
                   .w2 = Values(w2, type),
                   .b1 = values_of(b1, type),
                   .b2 = values_of(b2, type),
                   .w1_by_channel = Buffer(m * channels * hidden, type),
                   .zeros = Buffer(none, type),
                   .parameters = {}};
  if (type == Dtype::f64)
    transpose_each<double>(gate.w1, gate.w1_by_channel, m, hidden, channels);
  else
    transpose_each<float>(gate.w1, gate.w1_by_channel, m, hidden, channels);
  std::memset(gate.zeros.data_ptr(), 0, size_t(none) * (type == Dtype::f64 ? 8 : 4));
  gate.parameters = {.inputs = m,
                     .outputs = n,
                     .hidden = hidden,
                     .w1 = gate.w1.data_ptr(),
                     .w1_by_channel = gate.w1_by_channel.data_ptr(),
                     .b1 = gate.b1 ? gate.b1->data_ptr() : gate.zeros.data_ptr(),
                     .w2 = gate.w2.data_ptr(),
                     .b2 = gate.b2 ? gate.b2->data_ptr() : gate.zeros.data_ptr()};
  return gate;
}

// What the batch loop leaves for the gradients of the gates' parameters.
struct GateGradients {
  Buffer grad_logits, grad_hidden, hidden;
  GateGradients(int64_t batch, const GateParameters& gate, Dtype type)
      : grad_logits(batch * gate.inputs * gate.outputs, type),
        grad_hidden(batch * gate.inputs * gate.hidden, type),
        hidden(batch * gate.inputs * gate.hidden, type) {}

  // Writes dW1, db1, dW2 and db2, the gradients from `first` on, as far as they are wanted.
  void sum(const Geometry& geometry, const void* pooled, const Tensor& w1, const Tensor& w2,
           const ParameterGradients& grads, size_t first) const {
    const GateWeightGradients problem{
        .dtype = accumulate_type(geometry.dtype),
        .batch = geometry.batch,
        .channels = geometry.channels,
        .inputs = w1.size(0),
        .outputs = w2.size(1),
        .hidden_units = w1.size(1),
        .pooled = pooled,
        .hidden = hidden.data_ptr(),
        .grad_logits = grad_logits.data_ptr(),
        .grad_hidden = grad_hidden.data_ptr(),
        .grad_w1 = grads.data(first),
        .grad_b1 = grads.data(first + 1),
        .grad_w2 = grads.data(first + 2),
        .grad_b2 = grads.data(first + 3),
    };
    if (problem.grad_w1 || problem.grad_b1 || problem.grad_w2 || problem.grad_b2) run(problem);
  }
};

}  // namespace mpk::cpu
