// combine for CPU tensors: checks, outputs, threads over parts of samples.
#include <cstring>

#include "cpu/tasks.h"
#include "gradients.h"

namespace mpk::cpu {
namespace {

Buffer filled(int64_t elements, Dtype type, double value) {
  Buffer buffer(elements, type);
  for (int64_t q = 0; q < elements; q++) {
    if (type == Dtype::f64)
      static_cast<double*>(buffer.data_ptr())[q] = value;
    else
      static_cast<float*>(buffer.data_ptr())[q] = float(value);
  }
  return buffer;
}

std::optional<Values> values_of(const OptionalTensor& t, Dtype type) {
  return t ? std::optional<Values>(std::in_place, *t, type) : std::nullopt;
}

// What is combined as the kernels read it, with the memory that was made for it. Refuses all that
// mpkernels/ops/check.py refuses, which then says what is wrong.
struct PredictionTensors {
  Geometry all;  // of U_i
  GateValues gates;
  std::optional<Values> bias, scale, shift;
  Buffer ones;
  Maps us;
  Predictions view;

  PredictionTensors(const std::vector<Tensor>& us, const Tensor& gates, const OptionalTensor& bias,
                    const OptionalTensor& scale, const OptionalTensor& shift, bool relu)
      : all(checked(us, gates, bias, scale, shift)),
        gates(gates, all, int64_t(us.size())),
        bias(values_of(bias, type())),
        scale(values_of(scale, type())),
        shift(values_of(shift, type())),
        ones(filled(scale ? 0 : all.channels, type(), 1)),
        us(int64_t(us.size())) {
    for (const Tensor& u : us) this->us.read(u, all);
    Geometry one = all;
    one.channels = all.channels / gates.size(2);
    view = {one,
            int64_t(us.size()),
            gates.size(2),
            this->gates.view,
            this->bias ? this->bias->data_ptr() : nullptr,
            this->scale ? this->scale->data_ptr() : ones.data_ptr(),
            this->shift ? this->shift->data_ptr() : nullptr,
            relu,
            this->us.data()};
  }

  Dtype type() const { return accumulate_type(all.dtype); }

 private:
  static Geometry checked(const std::vector<Tensor>& us, const Tensor& gates,
                          const OptionalTensor& bias, const OptionalTensor& scale,
                          const OptionalTensor& shift) {
    check_paths(us);
    STD_TORCH_CHECK(gates.dim() == 3 && gates.size(2) > 0, "gates must be [B, m, n]");
    const int64_t m = int64_t(us.size()), n = gates.size(2), channels = us[0].size(1);
    STD_TORCH_CHECK(channels % n == 0, "us must be [B, n*C', *spatial]");
    STD_TORCH_CHECK(!bias || bias->has_shape({m, channels}), "bias must be [m, n*C']");
    STD_TORCH_CHECK(!scale || scale->has_shape({n, channels / n}), "scale must be [n, C']");
    STD_TORCH_CHECK(!shift || shift->has_shape({n, channels / n}), "shift must be [n, C']");
    return geometry_of(us[0]);
  }
};

// Calls body(begin, end) on parts of samples that hold `maps` maps of the geometry.
template <class Body>
void for_each_part(const Geometry& geometry, int64_t maps, Body body) {
  const int64_t parts = combine_parts(geometry);
  Geometry part = geometry;
  part.positions = geometry.positions / at_least_one(parts);
  parallel_for(0, geometry.batch * parts, grain(part, maps), body);
}

std::vector<Tensor> combine(std::vector<Tensor> us, Tensor gates, OptionalTensor bias,
                            OptionalTensor scale, OptionalTensor shift, bool relu) {
  const PredictionTensors tensors(us, gates, bias, scale, shift, relu);
  const Predictions& p = tensors.view;
  Maps outputs(p.outputs);
  for (int64_t j = 0; j < p.outputs; j++) outputs.write(us[0], p.geometry);
  const Combine problem{p, outputs.data()};
  const int64_t maps = (p.inputs + 1) * p.outputs;
  for_each_part(p.geometry, maps, [&](int64_t begin, int64_t end) {
    Buffer scratch(combine_scratch(p), Dtype::f64);
    kernels().combine(problem, begin, end, scratch.data_ptr());
  });
  return outputs.finish();
}

// Writes the gradients of gates, bias, scale and shift from what the batch loop left.
void sum_parameter_gradients(const CombineBackward& backward, const ParameterGradients& made) {
  if (!made.any()) return;
  const Predictions& p = backward.predictions;
  const CombineParameterGradients problem{
      p,
      backward.dots,
      backward.sums,
      backward.products,
      made.data(0),
      made.data(1),
      made.data(2),
      made.data(3),
  };
  const int64_t terms = p.geometry.batch * combine_sum_parts(p.geometry) * (p.inputs + 2);
  parallel_for(0, combine_tasks(p), 1 + 4096 / at_least_one(terms),
               [&](int64_t begin, int64_t end) {
                 kernels().combine_parameter_gradients(problem, begin, end);
               });
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> combine_backward(
    std::vector<OptionalTensor> grad_ys, std::vector<Tensor> us, Tensor gates, OptionalTensor bias,
    OptionalTensor scale, OptionalTensor shift, bool relu, std::vector<bool> wanted) {
  const PredictionTensors tensors(us, gates, bias, scale, shift, relu);
  const Predictions& p = tensors.view;
  const int64_t m = p.inputs, n = p.outputs;
  STD_TORCH_CHECK(wanted.size() == us.size() + 4,
                  "wanted must hold a flag for each u and parameter");
  STD_TORCH_CHECK(int64_t(grad_ys.size()) == n, "grad_ys must hold n entries");
  ParameterGradients parameters(
      {&gates, bias ? &*bias : nullptr, scale ? &*scale : nullptr, shift ? &*shift : nullptr},
      wanted, tensors.type());
  Maps grad_outputs(n), grad_us(m);
  for (const OptionalTensor& grad : grad_ys) {
    if (grad)
      grad_outputs.read(*grad, p.geometry);
    else
      grad_outputs.skip();
  }
  for (int64_t i = 0; i < m; i++) {
    if (wanted[i])
      grad_us.write(us[i], tensors.all);
    else
      grad_us.skip();
  }
  const int64_t batch = p.geometry.batch;
  const int64_t channels = batch * combine_sum_parts(p.geometry) * n * p.geometry.channels;
  const bool summed = p.bias || parameters.data(3), multiplied = parameters.data(2);
  const Buffer dots(batch * combine_parts(p.geometry) * m * n, tensors.type());
  const Buffer sums(summed ? channels : 0, tensors.type());
  const Buffer products(multiplied ? channels : 0, tensors.type());
  const CombineBackward problem{
      p,
      grad_outputs.data(),
      grad_us.data(),
      dots.data_ptr(),
      summed ? sums.data_ptr() : nullptr,
      multiplied ? products.data_ptr() : nullptr,
  };
  for_each_part(p.geometry, (2 * m + 1) * n, [&](int64_t begin, int64_t end) {
    Buffer scratch(combine_scratch(p), Dtype::f64);
    kernels().combine_backward(problem, begin, end, scratch.data_ptr());
  });
  sum_parameter_gradients(problem, parameters);
  return {grad_us.finish(), parameters.finish()};
}

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("combine", &mpk::boxed<&mpk::cpu::combine>);
  library.impl("combine_backward", &mpk::boxed<&mpk::cpu::combine_backward>);
}
