// mix for CPU tensors: checks, outputs, threads over samples.
#include "cpu/tasks.h"

namespace mpk::cpu {
namespace {

// Gates of any strides, in the accumulate dtype.
struct GateValues {
  Tensor tensor;
  Gates view;
  GateValues(const Tensor& gates, const Geometry& geometry, int64_t m)
      : tensor(gates.scalar_type() == accumulate_type(geometry.dtype)
                   ? gates
                   : torch::stable::to(gates, accumulate_type(geometry.dtype))) {
    const bool by_channel = gates.dim() == 4;
    STD_TORCH_CHECK((gates.dim() == 3 || by_channel) && gates.size(0) == geometry.batch &&
                        gates.size(1) == m && (!by_channel || gates.size(3) == geometry.channels),
                    "gates must be [B, m, n] or [B, m, n, C]");
    view = {tensor.data_ptr(),
            tensor.stride(0),
            tensor.stride(1),
            tensor.stride(2),
            by_channel ? tensor.stride(3) : 0,
            by_channel};
  }
};

std::vector<Tensor> mix(std::vector<Tensor> xs, Tensor gates) {
  STD_TORCH_CHECK(!xs.empty() && xs[0].dim() >= 2, "xs must be maps [B, C, *spatial]");
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size()), n = gates.size(2);
  const GateValues values(gates, geometry, m);
  Maps inputs, outputs;
  for (const Tensor& x : xs) inputs.read(x, geometry);
  for (int64_t j = 0; j < n; j++) outputs.write(xs[0], geometry);
  const Mix problem{geometry, m, n, values.view, inputs.data(), outputs.data()};
  parallel_for(0, geometry.batch, grain(geometry, m + n), [&](int64_t begin, int64_t end) {
    Scratch scratch(mix_scratch(m, n, geometry.channels));
    kernels().mix(problem, begin, end, scratch.data());
  });
  return outputs.finish();
}

// The wanted gradients of xs, and of the gates (one tensor, or none).
std::tuple<std::vector<Tensor>, std::vector<Tensor>> mix_backward(
    std::vector<OptionalTensor> grad_ys, std::vector<Tensor> xs, Tensor gates,
    std::vector<bool> wanted) {
  STD_TORCH_CHECK(!xs.empty() && wanted.size() == xs.size() + 1,
                  "wanted must hold a flag for each x and one for the gates");
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size()), n = gates.size(2);
  STD_TORCH_CHECK(int64_t(grad_ys.size()) == n, "grad_ys must hold n entries");
  const GateValues values(gates, geometry, m);
  Maps inputs, grad_outputs, grad_inputs;
  for (int64_t j = 0; j < n; j++) {
    if (grad_ys[j]) {
      grad_outputs.read(*grad_ys[j], geometry);
    } else {
      Tensor zero = empty_map(xs[0], is_channels_last(xs[0]));
      grad_outputs.read(torch::stable::zero_(zero), geometry);
    }
  }
  for (int64_t i = 0; i < m; i++) {
    if (wanted[m])
      inputs.read(xs[i], geometry);
    else
      inputs.skip();
    if (wanted[i])
      grad_inputs.write(xs[i], geometry);
    else
      grad_inputs.skip();
  }
  std::vector<Tensor> grad_gates;
  const ScalarType type = accumulate_type(geometry.dtype);
  if (wanted[m]) {
    std::vector<int64_t> sizes = {geometry.batch, m, n};
    if (values.view.by_channel) sizes.push_back(geometry.channels);
    grad_gates.push_back(empty_like_of(gates, sizes, type));
  }
  const MixBackward problem{
      geometry,
      m,
      n,
      values.view,
      inputs.data(),
      grad_outputs.data(),
      grad_inputs.data(),
      wanted[m] ? grad_gates[0].data_ptr() : nullptr,
  };
  parallel_for(0, geometry.batch, grain(geometry, 2 * m + n), [&](int64_t begin, int64_t end) {
    Scratch scratch(mix_scratch(m, n, geometry.channels));
    kernels().mix_backward(problem, begin, end, scratch.data());
  });
  for (Tensor& grad : grad_gates) grad = contiguous_as(grad, gates.scalar_type());
  return {grad_inputs.finish(), grad_gates};
}

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("mix", TORCH_BOX(&mpk::cpu::mix));
  library.impl("mix_backward", TORCH_BOX(&mpk::cpu::mix_backward));
}
