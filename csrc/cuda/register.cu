// cross_connect for CUDA tensors, as mpkernels::cross_connect_cuda and its backward: checks,
// outputs, launches. `cluster` is the number of blocks that share a sample.
#include "cuda/launch.h"
#include "cuda/on_device.h"
#include "gate_tensors.h"

namespace mpk::cuda {
namespace {

void check(const Geometry& geometry, const GateTensors& gate, int64_t cluster) {
  STD_TORCH_CHECK(geometry.channels * geometry.positions > 0, "xs must not be empty");
  STD_TORCH_CHECK(cluster >= 1 && cluster <= max_cluster, "cluster must be 1 to ", max_cluster);
  STD_TORCH_CHECK(gate.inputs <= max_paths && gate.outputs <= max_paths,
                  "cross_connect_cuda takes 1 to ", max_paths, " paths");
}

// ys, gates, pooled.
std::vector<Tensor> forward(std::vector<Tensor> xs, std::vector<OptionalTensor> gate, int64_t kind,
                            int64_t cluster) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size());
  const OnDevice device(xs[0]);
  const GateTensors parameters(gate, kind, m, geometry.channels, Dtype::f32);
  check(geometry, parameters, cluster);
  const int64_t n = parameters.outputs;
  Maps inputs(m), outputs(n);
  for (const Tensor& x : xs) inputs.read(x, geometry);
  for (int64_t j = 0; j < n; j++) outputs.write(xs[0], geometry);
  Tensor gates = empty(xs[0], {geometry.batch, m, n}, Dtype::f32);
  Tensor pooled = empty(xs[0], {geometry.batch, m, geometry.channels}, Dtype::f32);
  const CrossConnect problem{.geometry = geometry,
                             .gate = parameters.parameters(),
                             .xs = inputs.data(),
                             .ys = outputs.data(),
                             .gates = gates.data_ptr(),
                             .pooled = pooled.data_ptr()};
  cross_connect(problem, cluster, device.stream());
  std::vector<Tensor> results = outputs.finish();
  results.push_back(std::move(gates));
  results.push_back(std::move(pooled));
  return results;
}

std::vector<Tensor> backward(std::vector<OptionalTensor> grads, std::vector<Tensor> kept,
                             std::vector<Tensor> xs, std::vector<OptionalTensor> gate, int64_t kind,
                             int64_t wanted_bits, int64_t cluster) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size()), batch = geometry.batch;
  const OnDevice device(xs[0]);
  const Wanted wanted(wanted_bits);
  const GateTensors parameters(gate, kind, m, geometry.channels, Dtype::f32);
  check(geometry, parameters, cluster);
  const int64_t n = parameters.outputs, hidden = parameters.hidden;
  check_grads_and_kept(grads, kept, geometry, m, n);
  BackwardMaps maps(grads, n, xs, wanted, geometry);
  const Values gates(kept[0], Dtype::f32), pooled(kept[1], Dtype::f32);
  const std::optional<Values> grad_gates = values_of(grads[n], Dtype::f32);
  const Tensor grad_logits = empty(xs[0], {batch, m, n}, Dtype::f32);
  const Tensor grad_hidden = empty(xs[0], {batch, m, hidden}, Dtype::f32);
  const Tensor hidden_units = empty(xs[0], {batch, m, hidden}, Dtype::f32);
  ParameterGradients of_parameters(pointers_to(gate), wanted, m, Dtype::f32);
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
      .grad_logits = grad_logits.data_ptr(),
      .grad_hidden = grad_hidden.data_ptr(),
      .hidden = hidden_units.data_ptr(),
      .parameters_wanted = of_parameters.any(),
  };
  cross_connect_backward(problem, cluster, device.stream());
  const GateRests rests{.pooled = pooled.data_ptr(),
                        .grad_logits = grad_logits.data_ptr(),
                        .grad_hidden = grad_hidden.data_ptr(),
                        .hidden = hidden_units.data_ptr()};
  const GateWeightGradients sums =
      gate_weight_gradients(geometry, parameters, rests, of_parameters, 0);
  if (any(sums)) gate_weight_gradients(sums, device.stream());
  return of_parameters.finish(maps.grad_inputs.finish());
}

// Of the kernels for elements of so many bytes: both half types have the same blocks.
int64_t active_clusters_on(int64_t device, bool backward, int64_t itemsize, int64_t kept,
                           int64_t cluster, int64_t threads, int64_t bytes) {
  const torch::stable::accelerator::DeviceGuard guard{int32_t(device)};
  const Dtype dtype = itemsize == 4 ? Dtype::f32 : Dtype::bf16;
  const Blocks of{.cluster = int32_t(cluster), .threads = int32_t(threads), .bytes = bytes};
  return backward ? active_clusters_backward(dtype, kept, of) : active_clusters(dtype, kept, of);
}

}  // namespace
}  // namespace mpk::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(mpkernels, library) {
  library.def("cross_connect_cuda(Tensor[] xs, Tensor?[] gate, int kind, int cluster) -> Tensor[]");
  library.def(
      "cross_connect_backward_cuda(Tensor?[] grads, Tensor[] kept, Tensor[] xs, Tensor?[] gate, "
      "int kind, int wanted, int cluster) -> Tensor[]");
  library.def(
      "active_clusters_cuda(int device, bool backward, int itemsize, int kept, int cluster, "
      "int threads, int bytes) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CompositeExplicitAutograd, library) {
  library.impl("active_clusters_cuda", &mpk::boxed<&mpk::cuda::active_clusters_on>);
}

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CUDA, library) {
  library.impl("cross_connect_cuda", &mpk::boxed<&mpk::cuda::forward>);
  library.impl("cross_connect_backward_cuda", &mpk::boxed<&mpk::cuda::backward>);
}
