// cross_connect and gate for CPU tensors: checks, outputs, threads over samples.
#include <algorithm>

#include "cpu/gate_tensors.h"
#include "cpu/switched.h"

namespace mpk::cpu {
namespace {

std::tuple<std::vector<Tensor>, Tensor, Tensor> forward(const std::vector<Tensor>& xs,
                                                        const Tensor& w1, const OptionalTensor& b1,
                                                        const Tensor& w2, const OptionalTensor& b2,
                                                        bool mixed) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size());
  const GateTensors gate = gate_tensors(geometry, m, w1, b1, w2, b2);
  const int64_t n = w2.size(1);
  const Dtype type = accumulate_type(geometry.dtype);
  Maps inputs(m), outputs(n);
  for (const Tensor& x : xs) inputs.read(x, geometry);
  for (int64_t j = 0; mixed && j < n; j++) outputs.write(xs[0], geometry);
  Tensor gates = empty(xs[0], {geometry.batch, m, n}, type);
  Tensor pooled = empty(xs[0], {geometry.batch, m, geometry.channels}, type);
  const CrossConnect problem{.geometry = geometry,
                             .gate = gate.parameters,
                             .xs = inputs.data(),
                             .ys = mixed ? outputs.data() : nullptr,
                             .gates = gates.data_ptr(),
                             .pooled = pooled.data_ptr()};
  run(problem, m + n);
  return {outputs.finish(), std::move(gates), std::move(pooled)};
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> cross_connect(std::vector<Tensor> xs, Tensor w1,
                                                              OptionalTensor b1, Tensor w2,
                                                              OptionalTensor b2) {
  return forward(xs, w1, b1, w2, b2, true);
}

std::tuple<Tensor, Tensor> gate(std::vector<Tensor> xs, Tensor w1, OptionalTensor b1, Tensor w2,
                                OptionalTensor b2) {
  auto [ys, gates, pooled] = forward(xs, w1, b1, w2, b2, false);
  return {std::move(gates), std::move(pooled)};
}

// Those of dW1, db1, dW2 and db2 that are wanted, in this order and the dtype of their parameters.
std::vector<Tensor> parameter_gradients(const GateGradients& gradients, const Values& pooled,
                                        const Geometry& geometry, const Tensor& w1,
                                        const OptionalTensor& b1, const Tensor& w2,
                                        const OptionalTensor& b2, const std::vector<bool>& wanted) {
  ParameterGradients grads({&w1, b1 ? &*b1 : nullptr, &w2, b2 ? &*b2 : nullptr}, wanted,
                           accumulate_type(geometry.dtype));
  gradients.sum(geometry, pooled.data_ptr(), w1, w2, grads, 0);
  return grads.finish();
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> cross_connect_backward(
    std::vector<OptionalTensor> grad_ys, OptionalTensor grad_gates, std::vector<Tensor> xs,
    Tensor gates, Tensor pooled, Tensor w1, OptionalTensor b1, Tensor w2, OptionalTensor b2,
    std::vector<bool> wanted) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size());
  const Dtype type = accumulate_type(geometry.dtype);
  STD_TORCH_CHECK(wanted.size() == xs.size() + 4,
                  "wanted must hold a flag for each x and parameter");
  const GateTensors gate = gate_tensors(geometry, m, w1, b1, w2, std::nullopt);
  const int64_t n = w2.size(1);
  STD_TORCH_CHECK(int64_t(grad_ys.size()) == n, "grad_ys must hold n entries");
  STD_TORCH_CHECK(gates.has_shape({geometry.batch, m, n}), "gates must be [B, m, n]");
  STD_TORCH_CHECK(pooled.has_shape({geometry.batch, m, geometry.channels}),
                  "pooled must be [B, m, C]");
  BackwardMaps maps(grad_ys, xs, wanted, geometry);
  STD_TORCH_CHECK(!grad_gates || grad_gates->has_shape({geometry.batch, m, n}),
                  "grad_gates must be [B, m, n]");
  const Values g(gates, type), z(pooled, type);
  const std::optional<Values> dg = values_of(grad_gates, type);
  const GateGradients gradients(geometry.batch, gate.parameters, type);
  const bool any = std::find(wanted.end() - 4, wanted.end(), true) != wanted.end();
  const CrossConnectBackward problem{
      .geometry = geometry,
      .gate = gate.parameters,
      .xs = maps.inputs.data(),
      .grad_ys = maps.grad_outputs.data(),
      .output_of = maps.output_of.data(),
      .present = maps.grad_outputs.size(),
      .grad_xs = maps.grad_inputs.data(),
      .grad_gates = dg ? dg->data_ptr() : nullptr,
      .gates = g.data_ptr(),
      .pooled = z.data_ptr(),
      .grad_pooled = nullptr,
      .grad_logits = gradients.grad_logits.data_ptr(),
      .grad_hidden = gradients.grad_hidden.data_ptr(),
      .hidden = gradients.hidden.data_ptr(),
      .parameters_wanted = any,
  };
  run(problem, 2 * m + n);
  return {
      maps.grad_inputs.finish(),
      parameter_gradients(gradients, z, geometry, w1, b1, w2, b2, wanted),
  };
}

// Gradients of the pooled values [B, m, C] and of the wanted parameters.
std::tuple<Tensor, std::vector<Tensor>> gate_backward(Tensor grad_gates, Tensor gates,
                                                      Tensor pooled, Tensor w1, OptionalTensor b1,
                                                      Tensor w2, OptionalTensor b2,
                                                      std::vector<bool> wanted) {
  STD_TORCH_CHECK(pooled.dim() == 3, "pooled must be [B, m, C]");
  const int64_t batch = pooled.size(0), m = pooled.size(1);
  const Dtype type = accumulate_type(pooled.dtype());
  const Geometry geometry{.dtype = type,
                          .channels_last = true,
                          .batch = batch,
                          .channels = pooled.size(2),
                          .positions = 1};
  STD_TORCH_CHECK(wanted.size() == 4, "wanted must hold a flag for each parameter");
  const GateTensors gate = gate_tensors(geometry, m, w1, b1, w2, std::nullopt);
  const int64_t n = w2.size(1);
  STD_TORCH_CHECK(gates.has_shape({batch, m, n}) && grad_gates.has_shape({batch, m, n}),
                  "gates and grad_gates must be [B, m, n]");
  const Values g(gates, type), z(pooled, type), dg(grad_gates, type);
  Tensor grad_pooled = empty(pooled, {batch, m, geometry.channels}, type);
  const GateGradients gradients(batch, gate.parameters, type);
  const std::vector<Map> none(m);
  const CrossConnectBackward problem{
      .geometry = geometry,
      .gate = gate.parameters,
      .xs = none.data(),
      .grad_ys = nullptr,
      .output_of = nullptr,
      .present = 0,
      .grad_xs = none.data(),
      .grad_gates = dg.data_ptr(),
      .gates = g.data_ptr(),
      .pooled = z.data_ptr(),
      .grad_pooled = grad_pooled.data_ptr(),
      .grad_logits = gradients.grad_logits.data_ptr(),
      .grad_hidden = gradients.grad_hidden.data_ptr(),
      .hidden = gradients.hidden.data_ptr(),
      .parameters_wanted = true,
  };
  run(problem, 2 * m + n);
  return {
      std::move(grad_pooled),
      parameter_gradients(gradients, z, geometry, w1, b1, w2, b2, wanted),
  };
}

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

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("cross_connect", &mpk::cpu::switched<"cross_connect", &mpk::cpu::cross_connect>);
  library.impl("cross_connect_backward",
               &mpk::cpu::switched<"cross_connect_backward", &mpk::cpu::cross_connect_backward>);
  library.impl("gate", &mpk::cpu::switched<"gate", &mpk::cpu::gate>);
  library.impl("gate_backward", &mpk::cpu::switched<"gate_backward", &mpk::cpu::gate_backward>);
}

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CompositeExplicitAutograd, library) {
  library.impl("instruction_set", &mpk::boxed<&mpk::cpu::instruction_set>);
  library.impl("forcing", &mpk::boxed<&mpk::cpu::force>);
}
