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

  PredictionTensors(const std::vector<Tensor>& us, const Tensor& gates,
                    const std::vector<OptionalTensor>& affine, bool relu)
      : all(checked(us, gates)),
        gates(gates, all, int64_t(us.size())),
        parameters(int64_t(us.size()), gates.size(2), all.channels, affine, type()),
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

std::vector<Tensor> combine(std::vector<Tensor> us, Tensor gates,
                            std::vector<OptionalTensor> affine, bool relu) {
  const PredictionTensors tensors(us, gates, affine, relu);
  const Predictions& p = tensors.view;
  Maps outputs(p.outputs);
  for (int64_t j = 0; j < p.outputs; j++) outputs.write(us[0], p.geometry);
  run(Combine{.predictions = p, .ys = outputs.data()});
  return outputs.finish();
}

std::vector<Tensor> combine_backward(std::vector<OptionalTensor> grads, std::vector<Tensor>,
                                     std::vector<Tensor> us, Tensor gates,
                                     std::vector<OptionalTensor> affine, bool relu,
                                     int64_t wanted_bits) {
  const PredictionTensors tensors(us, gates, affine, relu);
  const Predictions& p = tensors.view;
  const Wanted wanted(wanted_bits);
  STD_TORCH_CHECK(int64_t(grads.size()) == p.outputs, "grads must hold n entries");
  std::vector<const Tensor*> parameters = pointers_to(affine);
  parameters.insert(parameters.begin(), &gates);
  ParameterGradients of_parameters(parameters, wanted, p.inputs, tensors.type());
  Maps grad_outputs(p.outputs), grad_us(p.inputs);
  for (const OptionalTensor& grad : grads) {
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
  const CombineGradients combined(p, grad_outputs.data(), grad_us.data(), of_parameters.data(1),
                                  of_parameters.data(2), of_parameters.data(3));
  combined.run(of_parameters.data(0), of_parameters.data(1), of_parameters.data(2),
               of_parameters.data(3));
  return of_parameters.finish(grad_us.finish());
}

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("combine", &mpk::cpu::switched<"combine", &mpk::cpu::combine>);
  library.impl("combine_backward",
               &mpk::cpu::switched<"combine_backward", &mpk::cpu::combine_backward>);
}
