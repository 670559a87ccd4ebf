// cross_connect for CUDA tensors, as mpkernels::cross_connect_cuda and its backward: checks,
// outputs, launches. `cluster` is the number of blocks that share a sample.
#include <algorithm>

#include "cuda/launch.h"
#include "cuda/limits.h"
#include "cuda/on_device.h"
#include "gradients.h"

namespace mpk::cuda {
namespace {

// The gates' parameters in float32, copied where they have another dtype.
struct GateTensors {
  Values w1, w2;
  std::optional<Values> b1, b2;

  GateParameters parameters(int64_t m, int64_t n, int64_t hidden) const {
    return {.inputs = m,
            .outputs = n,
            .hidden = hidden,
            .w1 = w1.data_ptr(),
            .w1_by_channel = nullptr,
            .b1 = b1 ? b1->data_ptr() : nullptr,
            .w2 = w2.data_ptr(),
            .b2 = b2 ? b2->data_ptr() : nullptr};
  }
};

void check(const Geometry& geometry, int64_t m, const Tensor& w1, const OptionalTensor& b1,
           const Tensor& w2, const OptionalTensor& b2, int64_t cluster) {
  STD_TORCH_CHECK(geometry.channels * geometry.positions > 0, "xs must not be empty");
  STD_TORCH_CHECK(cluster >= 1 && cluster <= max_cluster, "cluster must be 1 to ", max_cluster);
  STD_TORCH_CHECK(w1.dim() == 3 && w2.dim() == 3, "w1 must be [m, K, C], w2 [m, n, K]");
  const int64_t hidden = w1.size(1), n = w2.size(1);
  STD_TORCH_CHECK(m <= max_paths && n >= 1 && n <= max_paths, "cross_connect_cuda takes 1 to ",
                  max_paths, " paths");
  STD_TORCH_CHECK(hidden > 0 && w1.has_shape({m, hidden, geometry.channels}),
                  "w1 must be [m, K, C]");
  STD_TORCH_CHECK(w2.has_shape({m, n, hidden}), "w2 must be [m, n, K]");
  STD_TORCH_CHECK(!b1 || b1->has_shape({m, hidden}), "b1 must be [m, K]");
  STD_TORCH_CHECK(!b2 || b2->has_shape({m, n}), "b2 must be [m, n]");
}

std::tuple<std::vector<Tensor>, Tensor, Tensor> forward(std::vector<Tensor> xs, Tensor w1,
                                                        OptionalTensor b1, Tensor w2,
                                                        OptionalTensor b2, int64_t cluster) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size());
  check(geometry, m, w1, b1, w2, b2, cluster);
  const OnDevice device(xs[0]);
  const int64_t n = w2.size(1), hidden = w1.size(1);
  const GateTensors gate{.w1 = Values(w1, Dtype::f32),
                         .w2 = Values(w2, Dtype::f32),
                         .b1 = values_of(b1, Dtype::f32),
                         .b2 = values_of(b2, Dtype::f32)};
  Maps inputs(m), outputs(n);
  for (const Tensor& x : xs) inputs.read(x, geometry);
  for (int64_t j = 0; j < n; j++) outputs.write(xs[0], geometry);
  Tensor gates = empty(xs[0], {geometry.batch, m, n}, Dtype::f32);
  Tensor pooled = empty(xs[0], {geometry.batch, m, geometry.channels}, Dtype::f32);
  const CrossConnect problem{.geometry = geometry,
                             .gate = gate.parameters(m, n, hidden),
                             .xs = inputs.data(),
                             .ys = outputs.data(),
                             .gates = gates.data_ptr(),
                             .pooled = pooled.data_ptr()};
  cross_connect(problem, cluster, device.stream());
  return {outputs.finish(), std::move(gates), std::move(pooled)};
}

// What the launch over samples leaves for the gradients of the parameters.
struct GateGradients {
  Tensor grad_logits, grad_hidden, hidden;
  GateGradients(const Tensor& x, int64_t batch, int64_t m, int64_t n, int64_t units)
      : grad_logits(empty(x, {batch, m, n}, Dtype::f32)),
        grad_hidden(empty(x, {batch, m, units}, Dtype::f32)),
        hidden(empty(x, {batch, m, units}, Dtype::f32)) {}
};

// Those of dW1, db1, dW2 and db2 that are wanted, in this order and the dtype of their parameters.
std::vector<Tensor> parameter_gradients(const GateGradients& gradients, const void* pooled,
                                        int64_t batch, const Tensor& w1, const OptionalTensor& b1,
                                        const Tensor& w2, const OptionalTensor& b2,
                                        const std::vector<bool>& wanted, void* stream) {
  ParameterGradients grads({&w1, b1 ? &*b1 : nullptr, &w2, b2 ? &*b2 : nullptr}, wanted,
                           Dtype::f32);
  if (grads.any())
    gate_weight_gradients(
        GateWeightGradients{
            .dtype = Dtype::f32,
            .batch = batch,
            .channels = w1.size(2),
            .inputs = w1.size(0),
            .outputs = w2.size(1),
            .hidden_units = w1.size(1),
            .pooled = pooled,
            .hidden = gradients.hidden.data_ptr(),
            .grad_logits = gradients.grad_logits.data_ptr(),
            .grad_hidden = gradients.grad_hidden.data_ptr(),
            .grad_w1 = grads.data(0),
            .grad_b1 = grads.data(1),
            .grad_w2 = grads.data(2),
            .grad_b2 = grads.data(3),
        },
        stream);
  return grads.finish();
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> backward(
    std::vector<OptionalTensor> grad_ys, OptionalTensor grad_gates, std::vector<Tensor> xs,
    Tensor gates, Tensor pooled, Tensor w1, OptionalTensor b1, Tensor w2, OptionalTensor b2,
    std::vector<bool> wanted, int64_t cluster) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size()), batch = geometry.batch;
  check(geometry, m, w1, b1, w2, b2, cluster);
  const int64_t n = w2.size(1), hidden = w1.size(1);
  STD_TORCH_CHECK(int64_t(grad_ys.size()) == n, "grad_ys must hold n entries");
  STD_TORCH_CHECK(wanted.size() == xs.size() + 4,
                  "wanted must hold a flag for each x and parameter");
  STD_TORCH_CHECK(
      gates.has_shape({batch, m, n}) && (!grad_gates || grad_gates->has_shape({batch, m, n})),
      "gates and grad_gates must be [B, m, n]");
  STD_TORCH_CHECK(pooled.has_shape({batch, m, geometry.channels}), "pooled must be [B, m, C]");
  const OnDevice device(xs[0]);
  BackwardMaps maps(grad_ys, xs, wanted, geometry);
  const GateTensors gate{.w1 = Values(w1, Dtype::f32),
                         .w2 = Values(w2, Dtype::f32),
                         .b1 = values_of(b1, Dtype::f32),
                         .b2 = std::nullopt};
  const Values g(gates, Dtype::f32), z(pooled, Dtype::f32);
  const std::optional<Values> dg = values_of(grad_gates, Dtype::f32);
  const GateGradients gradients(xs[0], batch, m, n, hidden);
  const bool any = std::find(wanted.begin() + m, wanted.end(), true) != wanted.end();
  const CrossConnectBackward problem{
      .geometry = geometry,
      .gate = gate.parameters(m, n, hidden),
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
  cross_connect_backward(problem, cluster, device.stream());
  std::vector<Tensor> of_parameters =
      parameter_gradients(gradients, z.data_ptr(), batch, w1, b1, w2, b2, wanted, device.stream());
  return {maps.grad_inputs.finish(), std::move(of_parameters)};
}

}  // namespace
}  // namespace mpk::cuda

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CUDA, library) {
  library.impl("cross_connect_cuda", &mpk::boxed<&mpk::cuda::forward>);
  library.impl("cross_connect_backward_cuda", &mpk::boxed<&mpk::cuda::backward>);
}
