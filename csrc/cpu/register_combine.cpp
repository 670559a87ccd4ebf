// combine for CPU tensors: checks, outputs.
#include "cpu/combine_tensors.h"
#include "cpu/switched.h"

namespace mpk::cpu {
namespace {

// What combine reads, in the form of the kernels, and the memory that holds it.
struct PredictionTensors {
  Geometry all;  // of U_i
  GateValues gates;
  CombineParameters parameters;
  Maps us;
  Predictions view;

  PredictionTensors(const std::vector<Tensor>& us, const Tensor& gates, const OptionalTensor& bias,
                    const OptionalTensor& scale, const OptionalTensor& shift, bool relu)
      : all(checked(us, gates)),
        gates(gates, all, int64_t(us.size())),
        parameters(int64_t(us.size()), gates.size(2), all.channels, bias, scale, shift, type()),
        us(int64_t(us.size())) {
    for (const Tensor& u : us) this->us.read(u, all);
    const int64_t n = gates.size(2);
    Geometry one = all;
    one.channels = all.channels / n;
    view = parameters.predictions(one, this->us.size(), n, this->gates.view, this->us.data(), relu);
  }

  Dtype type() const { return accumulate_type(all.dtype); }

 private:
  static Geometry checked(const std::vector<Tensor>& us, const Tensor& gates) {
    check_paths(us);
    STD_TORCH_CHECK(gates.dim() == 3 && gates.size(2) > 0, "gates must be [B, m, n]");
    return geometry_of(us[0]);
  }
};

std::vector<Tensor> combine(std::vector<Tensor> us, Tensor gates, OptionalTensor bias,
                            OptionalTensor scale, OptionalTensor shift, bool relu) {
  const PredictionTensors tensors(us, gates, bias, scale, shift, relu);
  const Predictions& p = tensors.view;
  Maps outputs(p.outputs);
  for (int64_t j = 0; j < p.outputs; j++) outputs.write(us[0], p.geometry);
  run(Combine{.predictions = p, .ys = outputs.data()});
  return outputs.finish();
}

std::tuple<std::vector<Tensor>, std::vector<Tensor>> combine_backward(
    std::vector<OptionalTensor> grad_ys, std::vector<Tensor> us, Tensor gates, OptionalTensor bias,
    OptionalTensor scale, OptionalTensor shift, bool relu, std::vector<bool> wanted) {
  const PredictionTensors tensors(us, gates, bias, scale, shift, relu);
  const Predictions& p = tensors.view;
  STD_TORCH_CHECK(wanted.size() == us.size() + 4,
                  "wanted must hold a flag for each u and parameter");
  STD_TORCH_CHECK(int64_t(grad_ys.size()) == p.outputs, "grad_ys must hold n entries");
  ParameterGradients grads(
      {&gates, bias ? &*bias : nullptr, scale ? &*scale : nullptr, shift ? &*shift : nullptr},
      wanted, tensors.type());
  Maps grad_outputs(p.outputs), grad_us(p.inputs);
  for (const OptionalTensor& grad : grad_ys) {
    if (grad)
      grad_outputs.read(*grad, p.geometry);
    else
      grad_outputs.skip();
  }
  for (int64_t i = 0; i < p.inputs; i++) {
    if (wanted[i])
      grad_us.write(us[i], tensors.all);
    else
      grad_us.skip();
  }
  const CombineGradients combined(p, grad_outputs.data(), grad_us.data(), grads.data(1),
                                  grads.data(2), grads.data(3));
  combined.run(grads.data(0), grads.data(1), grads.data(2), grads.data(3));
  return {grad_us.finish(), grads.finish()};
}

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("combine", &mpk::cpu::switched<"combine", &mpk::cpu::combine>);
  library.impl("combine_backward",
               &mpk::cpu::switched<"combine_backward", &mpk::cpu::combine_backward>);
}
