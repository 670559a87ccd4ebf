// cross_connect and gate for CPU tensors: checks, outputs, threads over samples.
#include "cpu/gate_parameters.h"
#include "cpu/switched.h"

namespace mpk::cpu {
namespace {

std::vector<Tensor> forward(const std::vector<Tensor>& xs, const std::vector<OptionalTensor>& gate,
                            int64_t kind, bool mixed) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size());
  const Dtype type = accumulate_type(geometry.dtype);
  const CpuGate parameters(gate, kind, m, geometry.channels, type);
  const int64_t n = parameters.outputs;
  Maps inputs(m), outputs(n);
  for (const Tensor& x : xs) inputs.read(x, geometry);
  for (int64_t j = 0; mixed && j < n; j++) outputs.write(xs[0], geometry);
  Tensor gates = empty(xs[0], {geometry.batch, m, n}, type);
  Tensor pooled = empty(xs[0], {geometry.batch, m, geometry.channels}, type);
  const CrossConnect problem{.geometry = geometry,
                             .gate = parameters.parameters(),
                             .xs = inputs.data(),
                             .ys = mixed ? outputs.data() : nullptr,
                             .gates = gates.data_ptr(),
                             .pooled = pooled.data_ptr()};
  run(problem, m + n);
  std::vector<Tensor> results = outputs.finish();
  results.push_back(std::move(gates));
  results.push_back(std::move(pooled));
  return results;
}

// ys, gates, pooled.
std::vector<Tensor> cross_connect(std::vector<Tensor> xs, std::vector<OptionalTensor> gate,
                                  int64_t kind) {
  return forward(xs, gate, kind, true);
}

// gates, pooled.
std::vector<Tensor> gate(std::vector<Tensor> xs, std::vector<OptionalTensor> gate, int64_t kind) {
  return forward(xs, gate, kind, false);
}

std::vector<Tensor> cross_connect_backward(std::vector<OptionalTensor> grads,
                                           std::vector<Tensor> kept, std::vector<Tensor> xs,
                                           std::vector<OptionalTensor> gate, int64_t kind,
                                           int64_t wanted_bits) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size());
  const Dtype type = accumulate_type(geometry.dtype);
  const Wanted wanted(wanted_bits);
  const CpuGate parameters(gate, kind, m, geometry.channels, type);
  const int64_t n = parameters.outputs;
  check_grads_and_kept(grads, kept, geometry, m, n);
  BackwardMaps maps(grads, n, xs, wanted, geometry);
  const Values gates(kept[0], type), pooled(kept[1], type);
  const std::optional<Values> grad_gates = values_of(grads[n], type);
  const GateGradients of_samples(geometry.batch, parameters, type);
  ParameterGradients of_parameters(pointers_to(gate), wanted, m, type);
  const CrossConnectBackward problem{
      .geometry = geometry,
      .gate = parameters.parameters(),
      .xs = maps.inputs.data(),
      .grad_ys = maps.grad_outputs.data(),
      .output_of = maps.output_of.data(),
      .present = maps.grad_outputs.size(),
      .grad_xs = maps.grad_inputs.data(),
      .grad_gates = grad_gates ? grad_gates->data_ptr() : nullptr,
      .gates = gates.data_ptr(),
      .pooled = pooled.data_ptr(),
      .grad_pooled = nullptr,
      .grad_logits = of_samples.grad_logits.data_ptr(),
      .grad_hidden = of_samples.grad_hidden.data_ptr(),
      .hidden = of_samples.hidden.data_ptr(),
      .parameters_wanted = of_parameters.any(),
  };
  run(problem, 2 * m + n);
  of_samples.sum(geometry, parameters, pooled.data_ptr(), of_parameters, 0);
  return of_parameters.finish(maps.grad_inputs.finish());
}

// Gradients of the pooled values [B, m, C] and of the wanted parameters.
std::vector<Tensor> gate_backward(Tensor grad, std::vector<Tensor> kept,
                                  std::vector<OptionalTensor> gate, int64_t kind, int64_t wanted) {
  STD_TORCH_CHECK(kept.size() == 2 && kept[1].dim() == 3,
                  "kept must be gates and pooled [B, m, C]");
  const int64_t batch = kept[1].size(0), m = kept[1].size(1);
  const Dtype type = accumulate_type(kept[1].dtype());
  const Geometry geometry{.dtype = type,
                          .channels_last = true,
                          .batch = batch,
                          .channels = kept[1].size(2),
                          .positions = 1};
  const CpuGate parameters(gate, kind, m, geometry.channels, type);
  const int64_t n = parameters.outputs;
  STD_TORCH_CHECK(kept[0].has_shape({batch, m, n}) && grad.has_shape({batch, m, n}),
                  "gates and their gradient must be [B, m, n]");
  const Values gates(kept[0], type), pooled(kept[1], type), grad_gates(grad, type);
  std::vector<Tensor> results;
  results.push_back(empty(kept[1], {batch, m, geometry.channels}, type));
  const GateGradients of_samples(batch, parameters, type);
  ParameterGradients of_parameters(pointers_to(gate), Wanted(wanted), 0, type);
  of_samples.differentiate(geometry, parameters, grad_gates.data_ptr(), gates.data_ptr(),
                           pooled.data_ptr(), results[0].data_ptr());
  of_samples.sum(geometry, parameters, pooled.data_ptr(), of_parameters, 0);
  return of_parameters.finish(std::move(results));
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
