// cross_connect and gate for CPU tensors: checks, outputs, threads over samples.
#include "cpu/tasks.h"

namespace mpk::cpu {
namespace {

// The gates' parameters as the kernels read them, with the tensors that own the memory.
struct GateTensors {
  Tensor w1, w1_by_channel, b1, w2, b2;
  GateParameters parameters;
};

Tensor bias_or_zero(const OptionalTensor& bias, const Tensor& like, std::vector<int64_t> sizes,
                    ScalarType type) {
  if (bias) return contiguous_as(*bias, type);
  Tensor zero = empty_like_of(like, sizes, type);
  return torch::stable::zero_(zero);
}

template <class A>
void transpose_each(const Tensor& from, const Tensor& to) {
  const int64_t m = from.size(0), rows = from.size(1), cols = from.size(2);
  const A* source = from.const_data_ptr<A>();
  A* target = to.mutable_data_ptr<A>();
  for (int64_t i = 0; i < m; i++, source += rows * cols, target += rows * cols)
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < cols; c++) target[c * rows + r] = source[r * cols + c];
}

GateTensors gate_tensors(const Geometry& geometry, int64_t m, const Tensor& w1,
                         const OptionalTensor& b1, const Tensor& w2, const OptionalTensor& b2) {
  const ScalarType type = accumulate_type(geometry.dtype);
  const int64_t hidden = w1.size(1), n = w2.size(1);
  STD_TORCH_CHECK(w1.dim() == 3 && w1.size(0) == m && w1.size(2) == geometry.channels,
                  "w1 must be [m, K, C]");
  STD_TORCH_CHECK(w2.dim() == 3 && w2.size(0) == m && w2.size(2) == hidden, "w2 must be [m, n, K]");
  STD_TORCH_CHECK(!b1 || b1->numel() == m * hidden, "b1 must be [m, K]");
  STD_TORCH_CHECK(!b2 || b2->numel() == m * n, "b2 must be [m, n]");
  GateTensors gate{contiguous_as(w1, type), empty_like_of(w1, {m, geometry.channels, hidden}, type),
                   bias_or_zero(b1, w1, {m, hidden}, type), contiguous_as(w2, type),
                   bias_or_zero(b2, w1, {m, n}, type)};
  if (type == ScalarType::Double)
    transpose_each<double>(gate.w1, gate.w1_by_channel);
  else
    transpose_each<float>(gate.w1, gate.w1_by_channel);
  gate.parameters = {m,
                     n,
                     hidden,
                     gate.w1.data_ptr(),
                     gate.w1_by_channel.data_ptr(),
                     gate.b1.data_ptr(),
                     gate.w2.data_ptr(),
                     gate.b2.data_ptr()};
  return gate;
}

void check_paths(const std::vector<Tensor>& xs) {
  STD_TORCH_CHECK(!xs.empty() && xs[0].dim() >= 2, "xs must be maps [B, C, *spatial]");
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> forward(const std::vector<Tensor>& xs,
                                                        const Tensor& w1, const OptionalTensor& b1,
                                                        const Tensor& w2, const OptionalTensor& b2,
                                                        bool mixed) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size()), n = w2.size(1);
  const GateTensors gate = gate_tensors(geometry, m, w1, b1, w2, b2);
  const ScalarType type = accumulate_type(geometry.dtype);
  Maps inputs, outputs;
  for (const Tensor& x : xs) inputs.read(x, geometry);
  for (int64_t j = 0; mixed && j < n; j++) outputs.write(xs[0], geometry);
  const Tensor gates = empty_like_of(xs[0], {geometry.batch, m, n}, type);
  const Tensor pooled = empty_like_of(xs[0], {geometry.batch, m, geometry.channels}, type);
  const CrossConnect problem{geometry,         gate.parameters,
                             inputs.data(),    mixed ? outputs.data() : nullptr,
                             gates.data_ptr(), pooled.data_ptr()};
  run(problem, m + n);
  return {outputs.finish(), gates, pooled};
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> cross_connect(std::vector<Tensor> xs, Tensor w1,
                                                              OptionalTensor b1, Tensor w2,
                                                              OptionalTensor b2) {
  return forward(xs, w1, b1, w2, b2, true);
}

std::tuple<Tensor, Tensor> gate(std::vector<Tensor> xs, Tensor w1, OptionalTensor b1, Tensor w2,
                                OptionalTensor b2) {
  auto [ys, gates, pooled] = forward(xs, w1, b1, w2, b2, false);
  return {gates, pooled};
}

// What the batch loop leaves for the gradients of the gates' parameters.
struct GateGradients {
  Tensor grad_logits, grad_hidden, hidden;
  GateGradients(const Tensor& like, int64_t batch, const GateParameters& gate, ScalarType type)
      : grad_logits(empty_like_of(like, {batch, gate.inputs, gate.outputs}, type)),
        grad_hidden(empty_like_of(like, {batch, gate.inputs, gate.hidden}, type)),
        hidden(empty_like_of(like, {batch, gate.inputs, gate.hidden}, type)) {}
};

// The wanted ones of dW1, db1, dW2, db2, in this order and in the dtype of their parameters.
std::vector<Tensor> parameter_gradients(const GateGradients& gradients, const Tensor& pooled,
                                        const Tensor& w1, const OptionalTensor& b1,
                                        const Tensor& w2, const OptionalTensor& b2,
                                        const bool (&wanted)[4]) {
  const int64_t m = w1.size(0), hidden = w1.size(1), channels = w1.size(2), n = w2.size(1);
  const ScalarType type = pooled.scalar_type();
  const std::vector<int64_t> sizes[4] = {
      {m, hidden, channels}, {m, hidden}, {m, n, hidden}, {m, n}};
  const ScalarType types[4] = {w1.scalar_type(), b1 ? b1->scalar_type() : w1.scalar_type(),
                               w2.scalar_type(), b2 ? b2->scalar_type() : w2.scalar_type()};
  std::vector<Tensor> made;
  void* data[4] = {};
  for (int q = 0; q < 4; q++) {
    if (!wanted[q]) continue;
    made.push_back(empty_like_of(w1, sizes[q], type));
    data[q] = made.back().data_ptr();
  }
  if (made.empty()) return made;
  const GateWeightGradients problem{
      type == ScalarType::Double ? Dtype::f64 : Dtype::f32,
      pooled.size(0),
      channels,
      m,
      n,
      hidden,
      pooled.data_ptr(),
      gradients.hidden.data_ptr(),
      gradients.grad_logits.data_ptr(),
      gradients.grad_hidden.data_ptr(),
      data[0],
      data[1],
      data[2],
      data[3],
  };
  run(problem);
  for (int q = 0, at = 0; q < 4; q++)
    if (wanted[q]) {
      made[at] = contiguous_as(made[at], types[q]);
      at++;
    }
  return made;
}

void copy_flags(const std::vector<bool>& wanted, size_t first, bool (&flags)[4]) {
  STD_TORCH_CHECK(wanted.size() == first + 4, "wanted must hold a flag for each x and parameter");
  for (size_t q = 0; q < 4; q++) flags[q] = wanted[first + q];
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> cross_connect_backward(
    std::vector<OptionalTensor> grad_ys, OptionalTensor grad_gates, std::vector<Tensor> xs,
    Tensor gates, Tensor pooled, Tensor w1, OptionalTensor b1, Tensor w2, OptionalTensor b2,
    std::vector<bool> wanted) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size()), n = w2.size(1);
  const ScalarType type = accumulate_type(geometry.dtype);
  bool parameters[4];
  copy_flags(wanted, xs.size(), parameters);
  STD_TORCH_CHECK(int64_t(grad_ys.size()) == n, "grad_ys must hold n entries");
  const GateTensors gate = gate_tensors(geometry, m, w1, b1, w2, std::nullopt);
  Maps inputs, grad_outputs, grad_inputs;
  std::vector<int64_t> output_of;
  for (int64_t j = 0; j < n; j++) {
    if (!grad_ys[j]) continue;
    grad_outputs.read(*grad_ys[j], geometry);
    output_of.push_back(j);
  }
  for (int64_t i = 0; i < m; i++) {
    inputs.read(xs[i], geometry);
    if (wanted[i])
      grad_inputs.write(xs[i], geometry);
    else
      grad_inputs.skip();
  }
  const Tensor g = contiguous_as(gates, type), z = contiguous_as(pooled, type);
  const OptionalTensor dg =
      grad_gates ? OptionalTensor(contiguous_as(*grad_gates, type)) : grad_gates;
  const GateGradients gradients(xs[0], geometry.batch, gate.parameters, type);
  const bool any = parameters[0] || parameters[1] || parameters[2] || parameters[3];
  const CrossConnectBackward problem{
      geometry,
      gate.parameters,
      inputs.data(),
      grad_outputs.data(),
      output_of.data(),
      grad_outputs.size(),
      grad_inputs.data(),
      dg ? dg->data_ptr() : nullptr,
      g.data_ptr(),
      z.data_ptr(),
      nullptr,
      gradients.grad_logits.data_ptr(),
      gradients.grad_hidden.data_ptr(),
      gradients.hidden.data_ptr(),
      any,
  };
  run(problem, 2 * m + n);
  return {grad_inputs.finish(), parameter_gradients(gradients, z, w1, b1, w2, b2, parameters)};
}

// Gradients of the pooled values [B, m, C] and of the wanted parameters.
std::tuple<Tensor, std::vector<Tensor>> gate_backward(Tensor grad_gates, Tensor gates,
                                                      Tensor pooled, Tensor w1, OptionalTensor b1,
                                                      Tensor w2, OptionalTensor b2,
                                                      std::vector<bool> wanted) {
  const int64_t batch = pooled.size(0), m = pooled.size(1), n = w2.size(1);
  const Dtype dtype = pooled.scalar_type() == ScalarType::Double ? Dtype::f64 : Dtype::f32;
  const ScalarType type = accumulate_type(dtype);
  const Geometry geometry{dtype, true, batch, pooled.size(2), 1};
  bool parameters[4];
  copy_flags(wanted, 0, parameters);
  const GateTensors gate = gate_tensors(geometry, m, w1, b1, w2, std::nullopt);
  const Tensor g = contiguous_as(gates, type), z = contiguous_as(pooled, type);
  const Tensor dg = contiguous_as(grad_gates, type);
  const Tensor grad_pooled = empty_like_of(pooled, {batch, m, geometry.channels}, type);
  const GateGradients gradients(pooled, batch, gate.parameters, type);
  const std::vector<Map> none(m);
  const CrossConnectBackward problem{
      geometry,
      gate.parameters,
      none.data(),
      nullptr,
      nullptr,
      0,
      none.data(),
      dg.data_ptr(),
      g.data_ptr(),
      z.data_ptr(),
      grad_pooled.data_ptr(),
      gradients.grad_logits.data_ptr(),
      gradients.grad_hidden.data_ptr(),
      gradients.hidden.data_ptr(),
      true,
  };
  run(problem, 2 * m + n);
  return {grad_pooled, parameter_gradients(gradients, z, w1, b1, w2, b2, parameters)};
}

// Uses the named instruction set from now on ("best": the widest); the name of the one in use.
std::string instruction_set(std::string name) {
  if (!name.empty())
    STD_TORCH_CHECK(choose(name == "best" ? nullptr : name.c_str()), "instruction set ", name,
                    " was not compiled or cannot run on this processor");
  return kernels().name;
}

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("cross_connect", TORCH_BOX(&mpk::cpu::cross_connect));
  library.impl("cross_connect_backward", TORCH_BOX(&mpk::cpu::cross_connect_backward));
  library.impl("gate", TORCH_BOX(&mpk::cpu::gate));
  library.impl("gate_backward", TORCH_BOX(&mpk::cpu::gate_backward));
}

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CompositeExplicitAutograd, library) {
  library.impl("instruction_set", TORCH_BOX(&mpk::cpu::instruction_set));
}
