// cross_predict for CPU tensors: the gates, predictions and outputs of small vectors in one call.
#include <cstring>

#include "cpu/combine_tensors.h"
#include "cpu/gate_parameters.h"
#include "cpu/switched.h"

namespace mpk::cpu {
namespace {

// Sizes and gate of a layer of vectors. Rejects whatever mpkernels/ops/check.py rejects.
struct Layer {
  Geometry input, output;
  Dtype type;
  CpuGate gate;
  int64_t inputs, outputs, rows;  // rows = n C'

  Layer(const std::vector<Tensor>& xs, const Tensor& weight,
        const std::vector<OptionalTensor>& parameters, int64_t kind)
      : input(checked(xs)),
        output(input),
        type(input.dtype),
        gate(parameters, kind, int64_t(xs.size()), input.channels, type),
        inputs(gate.inputs),
        outputs(gate.outputs),
        rows(weight.dim() == 3 ? weight.size(1) : 0) {
    STD_TORCH_CHECK(weight.has_shape({inputs, rows, input.channels}) && weight.dtype() == type,
                    "weight must be [m, n*C', C] in the dtype of xs");
    STD_TORCH_CHECK(rows % outputs == 0, "weight must be [m, n*C', C]");
    output.channels = rows / outputs;
  }

  // The maps of a matrix [m, B, rows].
  std::vector<Map> predictions(void* data) const {
    const int64_t bytes = input.batch * rows * bytes_of(type);
    std::vector<Map> maps;
    for (int64_t i = 0; i < inputs; i++)
      maps.push_back(
          {.data = static_cast<char*>(data) + i * bytes, .batch_stride = rows, .row_stride = rows});
    return maps;
  }

  // Contiguous [B, m, n].
  Gates gates(const void* data) const {
    return {.data = data,
            .batch_stride = inputs * outputs,
            .input_stride = outputs,
            .output_stride = 1,
            .channel_stride = 0,
            .by_channel = false};
  }

 private:
  static Geometry checked(const std::vector<Tensor>& xs) {
    check_paths(xs);
    STD_TORCH_CHECK(xs[0].dim() == 2 && xs[0].dtype() == accumulate_type(xs[0].dtype()),
                    "xs must be float32 or float64 vectors [B, C]");
    return geometry_of(xs[0]);
  }
};

// ys, gates, predictions [m, B, n C'].
std::vector<Tensor> cross_predict(std::vector<Tensor> xs, Tensor weight,
                                  std::vector<OptionalTensor> affine,
                                  std::vector<OptionalTensor> gate, int64_t kind, bool relu) {
  const Layer layer(xs, weight, gate, kind);
  const int64_t m = layer.inputs, n = layer.outputs, batch = layer.input.batch;
  const CombineParameters parameters(m, n, layer.rows, affine, layer.type);
  Maps inputs(m), outputs(n);
  for (const Tensor& x : xs) inputs.read(x, layer.input);
  for (int64_t j = 0; j < n; j++) outputs.write(xs[0], layer.output);
  Tensor gates = empty(xs[0], {batch, m, n}, layer.type);
  Tensor us = empty(xs[0], {m, batch, layer.rows}, layer.type);
  const Buffer pooled(batch * m * layer.input.channels, layer.type);
  const Values w(weight, layer.type);
  run(CrossConnect{.geometry = layer.input,
                   .gate = layer.gate.parameters(),
                   .xs = inputs.data(),
                   .ys = nullptr,
                   .gates = gates.data_ptr(),
                   .pooled = pooled.data_ptr()},
      m);
  run(Predict{.geometry = layer.input,
              .inputs = m,
              .rows = layer.rows,
              .xs = inputs.data(),
              .weight = w.data_ptr(),
              .us = us.data_ptr()});
  const std::vector<Map> maps = layer.predictions(us.data_ptr());
  const Predictions predictions =
      parameters.predictions(layer.output, m, n, layer.gates(gates.data_ptr()), maps.data(), relu);
  run(Combine{.predictions = predictions, .ys = outputs.data()});
  std::vector<Tensor> results = outputs.finish();
  results.push_back(std::move(gates));
  results.push_back(std::move(us));
  return results;
}

// xs as one matrix [B, m, C], which is what the pools of vectors are.
Buffer pooled_of(const Maps& xs, const Geometry& geometry) {
  const int64_t m = xs.size(), row = geometry.channels * bytes_of(geometry.dtype);
  Buffer pooled(geometry.batch * m * geometry.channels, geometry.dtype);
  for (int64_t b = 0; b < geometry.batch; b++)
    for (int64_t i = 0; i < m; i++) {
      const Map& x = xs.data()[i];
      const char* from = static_cast<const char*>(x.data);
      std::memcpy(static_cast<char*>(pooled.data_ptr()) + (b * m + i) * row,
                  from + b * x.batch_stride * bytes_of(geometry.dtype), size_t(row));
    }
  return pooled;
}

// dG = its own gradient, if there is one, on top of what came through the outputs.
template <class A>
void add(void* grad_gates, const std::optional<Values>& own, int64_t count) {
  if (!own) return;
  for (int64_t q = 0; q < count; q++)
    static_cast<A*>(grad_gates)[q] += static_cast<const A*>(own->data_ptr())[q];
}

std::vector<Tensor> cross_predict_backward(std::vector<OptionalTensor> grads,
                                           std::vector<Tensor> kept, std::vector<Tensor> xs,
                                           Tensor weight, std::vector<OptionalTensor> affine,
                                           std::vector<OptionalTensor> gate, int64_t kind,
                                           bool relu, int64_t wanted_bits) {
  const Layer layer(xs, weight, gate, kind);
  const Wanted wanted(wanted_bits);
  const int64_t m = layer.inputs, n = layer.outputs, batch = layer.input.batch;
  STD_TORCH_CHECK(int64_t(grads.size()) == n + 1, "grads must hold those of n outputs and gates");
  STD_TORCH_CHECK(kept.size() == 2, "kept must be gates and predictions");
  STD_TORCH_CHECK(
      kept[0].has_shape({batch, m, n}) && (!grads[n] || grads[n]->has_shape({batch, m, n})),
      "gates and their gradient must be [B, m, n]");
  STD_TORCH_CHECK(kept[1].has_shape({m, batch, layer.rows}), "predictions must be [m, B, n*C']");
  const CombineParameters parameters(m, n, layer.rows, affine, layer.type);
  std::vector<const Tensor*> all = pointers_to(affine), of_gate = pointers_to(gate);
  all.insert(all.begin(), &weight);
  all.insert(all.end(), of_gate.begin(), of_gate.end());
  ParameterGradients of_parameters(all, wanted, m, layer.type);
  // In this order: weight, bias, scale, shift, w1, b1, w2, b2.
  constexpr size_t bias = 1, scale = 2, shift = 3, first_of_gate = 4;
  Maps inputs(m), grad_inputs(m), grad_outputs(n);
  for (int64_t i = 0; i < m; i++) {
    inputs.read(xs[i], layer.input);
    if (wanted[i])
      grad_inputs.write(xs[i], layer.input);
    else
      grad_inputs.skip();
  }
  for (int64_t j = 0; j < n; j++) {
    if (grads[j])
      grad_outputs.read(*grads[j], layer.output);
    else
      grad_outputs.skip();
  }

  const Values gates(kept[0], layer.type), us(kept[1], layer.type), w(weight, layer.type);
  const std::optional<Values> own = values_of(grads[n], layer.type);
  const Buffer grad_gates(batch * m * n, layer.type), grad_us(m * batch * layer.rows, layer.type);
  const std::vector<Map> maps = layer.predictions(us.data_ptr());
  const std::vector<Map> grad_maps = layer.predictions(grad_us.data_ptr());
  const CombineGradients combined(
      parameters.predictions(layer.output, m, n, layer.gates(gates.data_ptr()), maps.data(), relu),
      grad_outputs.data(), grad_maps.data(), of_parameters.data(bias), of_parameters.data(scale),
      of_parameters.data(shift));
  combined.run(grad_gates.data_ptr(), of_parameters.data(bias), of_parameters.data(scale),
               of_parameters.data(shift));

  if (layer.type == Dtype::f64)
    add<double>(grad_gates.data_ptr(), own, batch * m * n);
  else
    add<float>(grad_gates.data_ptr(), own, batch * m * n);
  const Buffer pooled = pooled_of(inputs, layer.input);
  const Buffer grad_pooled(batch * m * layer.input.channels, layer.type);
  const GateGradients of_samples(batch, layer.gate, layer.type);
  of_samples.differentiate(layer.input, layer.gate, grad_gates.data_ptr(), gates.data_ptr(),
                           pooled.data_ptr(), grad_pooled.data_ptr());
  of_samples.sum(layer.input, layer.gate, pooled.data_ptr(), of_parameters, first_of_gate);

  run(PredictBackward{.geometry = layer.input,
                      .inputs = m,
                      .rows = layer.rows,
                      .xs = inputs.data(),
                      .weight = w.data_ptr(),
                      .grad_us = grad_us.data_ptr(),
                      .grad_pooled = grad_pooled.data_ptr(),
                      .grad_xs = grad_inputs.data(),
                      .grad_weight = of_parameters.data(0)});
  return of_parameters.finish(grad_inputs.finish());
}

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("cross_predict", &mpk::cpu::switched<"cross_predict", &mpk::cpu::cross_predict>);
  library.impl("cross_predict_backward",
               &mpk::cpu::switched<"cross_predict_backward", &mpk::cpu::cross_predict_backward>);
}
