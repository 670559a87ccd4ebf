// mix for CPU tensors: checks, outputs, threads over samples.
#include "cpu/switched.h"
#include "cpu/tasks.h"
#include "gradients.h"

namespace mpk::cpu {
namespace {

std::vector<Tensor> mix(std::vector<Tensor> xs, Tensor gates) {
  check_paths(xs);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size());
  const GateValues values(gates, geometry, m);
  const int64_t n = gates.size(2);
  Maps inputs(m), outputs(n);
  for (const Tensor& x : xs) inputs.read(x, geometry);
  for (int64_t j = 0; j < n; j++) outputs.write(xs[0], geometry);
  const Mix problem{.geometry = geometry,
                    .inputs = m,
                    .outputs = n,
                    .gates = values.view,
                    .xs = inputs.data(),
                    .ys = outputs.data()};
  parallel_for(0, geometry.batch, grain(geometry, m + n), [&](int64_t begin, int64_t end) {
    Buffer scratch(mix_scratch(m, n, geometry.channels), Dtype::f64);
    kernels().mix(problem, begin, end, scratch.data_ptr());
  });
  return outputs.finish();
}

// The wanted gradients of xs, and of the gates if that is wanted.
std::vector<Tensor> mix_backward(std::vector<OptionalTensor> grads, std::vector<Tensor>,
                                 std::vector<Tensor> xs, Tensor gates, int64_t wanted_bits) {
  check_paths(xs);
  const Wanted wanted(wanted_bits);
  const Geometry geometry = geometry_of(xs[0]);
  const int64_t m = int64_t(xs.size());
  const GateValues values(gates, geometry, m);
  const int64_t n = gates.size(2);
  STD_TORCH_CHECK(int64_t(grads.size()) == n, "grads must hold n entries");
  Maps inputs(m), grad_outputs(n), grad_inputs(m);
  std::vector<int64_t> output_of;
  output_of.reserve(n);
  for (int64_t j = 0; j < n; j++) {
    if (!grads[j]) continue;
    grad_outputs.read(*grads[j], geometry);
    output_of.push_back(j);
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
  ParameterGradients of_gates({&gates}, wanted, m, accumulate_type(geometry.dtype));
  const MixBackward problem{
      .geometry = geometry,
      .inputs = m,
      .outputs = n,
      .gates = values.view,
      .xs = inputs.data(),
      .grad_ys = grad_outputs.data(),
      .output_of = output_of.data(),
      .present = grad_outputs.size(),
      .grad_xs = grad_inputs.data(),
      .grad_gates = of_gates.data(0),
  };
  parallel_for(0, geometry.batch, grain(geometry, 2 * m + n), [&](int64_t begin, int64_t end) {
    Buffer scratch(mix_scratch(m, n, geometry.channels), Dtype::f64);
    kernels().mix_backward(problem, begin, end, scratch.data_ptr());
  });
  return of_gates.finish(grad_inputs.finish());
}

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("mix", &mpk::cpu::switched<"mix", &mpk::cpu::mix>);
  library.impl("mix_backward", &mpk::cpu::switched<"mix_backward", &mpk::cpu::mix_backward>);
}
