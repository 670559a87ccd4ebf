// cross_predict for CPU tensors: the gates, predictions and outputs of small vectors in one call.
#include <cstring>

#include "cpu/combine_tensors.h"
#include "cpu/gate_tensors.h"
#include "cpu/switched.h"

namespace mpk::cpu {
namespace {

// Sizes of a layer of vectors. Rejects whatever mpkernels/ops/check.py rejects.
struct Layer {
  Geometry input, output;
  int64_t inputs, outputs, rows;  // rows = n C'
  Dtype type;

  Layer(const std::vector<Tensor>& xs, const Tensor& weight, const Tensor& w2)
      : input(checked(xs, w2)),
        output(input),
        inputs(int64_t(xs.size())),
        outputs(w2.size(1)),
        rows(weight.dim() == 3 ? weight.size(1) : 0),
        type(input.dtype) {
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
  static Geometry checked(const std::vector<Tensor>& xs, const Tensor& w2) {
    check_paths(xs);
    STD_TORCH_CHECK(xs[0].dim() == 2 && xs[0].dtype() == accumulate_type(xs[0].dtype()),
                    "xs must be float32 or float64 vectors [B, C]");
    STD_TORCH_CHECK(w2.dim() == 3 && w2.size(1) > 0, "w2 must be [m, n, K]");
    return geometry_of(xs[0]);
  }
};

std::tuple<std::vector<Tensor>, Tensor, Tensor> cross_predict(
    std::vector<Tensor> xs, Tensor weight, OptionalTensor bias, Tensor w1, OptionalTensor b1,
    Tensor w2, OptionalTensor b2, OptionalTensor scale, OptionalTensor shift, bool relu) {
  const Layer layer(xs, weight, w2);
  const int64_t m = layer.inputs, n = layer.outputs, batch = layer.input.batch;
  const GateTensors gate = gate_tensors(layer.input, m, w1, b1, w2, b2);
  const CombineParameters parameters(m, n, layer.rows, bias, scale, shift, layer.type);
  Maps inputs(m), outputs(n);
  for (const Tensor& x : xs) inputs.read(x, layer.input);
  for (int64_t j = 0; j < n; j++) outputs.write(xs[0], layer.output);
  Tensor gates = empty(xs[0], {batch, m, n}, layer.type);
  Tensor us = empty(xs[0], {m, batch, layer.rows}, layer.type);
  const Buffer pooled(batch * m * layer.input.channels, layer.type);
  const Values w(weight, layer.type);
  run(CrossConnect{.geometry = layer.input,
                   .gate = gate.parameters,
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
  return {outputs.finish(), std::move(gates), std::move(us)};
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

std::tuple<std::vector<Tensor>, std::vector<Tensor>> cross_predict_backward(
    std::vector<OptionalTensor> grad_ys, OptionalTensor grad_gates, std::vector<Tensor> xs,
    Tensor gates, Tensor us, Tensor weight, OptionalTensor bias, Tensor w1, OptionalTensor b1,
    Tensor w2, OptionalTensor b2, OptionalTensor scale, OptionalTensor shift, bool relu,
    std::vector<bool> wanted) {
  const Layer layer(xs, weight, w2);
  const int64_t m = layer.inputs, n = layer.outputs, batch = layer.input.batch;
  STD_TORCH_CHECK(wanted.size() == xs.size() + 8,
                  "wanted must hold a flag for each x and parameter");
  STD_TORCH_CHECK(int64_t(grad_ys.size()) == n, "grad_ys must hold n entries");
  STD_TORCH_CHECK(
      gates.has_shape({batch, m, n}) && (!grad_gates || grad_gates->has_shape({batch, m, n})),
      "gates and grad_gates must be [B, m, n]");
  STD_TORCH_CHECK(us.has_shape({m, batch, layer.rows}), "us must be [m, B, n*C']");
  const GateTensors gate = gate_tensors(layer.input, m, w1, b1, w2, std::nullopt);
  const CombineParameters parameters(m, n, layer.rows, bias, scale, shift, layer.type);
  const auto or_null = [](const OptionalTensor& t) { return t ? &*t : nullptr; };
  ParameterGradients grads(
      {&weight, or_null(bias), &w1, or_null(b1), &w2, or_null(b2), or_null(scale), or_null(shift)},
      wanted, layer.type);
  Maps inputs(m), grad_inputs(m), grad_outputs(n);
  for (int64_t i = 0; i < m; i++) {
    inputs.read(xs[i], layer.input);
    if (wanted[i])
      grad_inputs.write(xs[i], layer.input);
    else
      grad_inputs.skip();
  }
  for (const OptionalTensor& grad : grad_ys) {
    if (grad)
      grad_outputs.read(*grad, layer.output);
    else
      grad_outputs.skip();
  }

  const Values g(gates, layer.type), u(us, layer.type), w(weight, layer.type);
  const std::optional<Values> own = values_of(grad_gates, layer.type);
  const Buffer dg(batch * m * n, layer.type), du(m * batch * layer.rows, layer.type);
  const std::vector<Map> maps = layer.predictions(u.data_ptr());
  const std::vector<Map> grad_maps = layer.predictions(du.data_ptr());
  const CombineGradients combined(
      parameters.predictions(layer.output, m, n, layer.gates(g.data_ptr()), maps.data(), relu),
      grad_outputs.data(), grad_maps.data(), grads.data(1), grads.data(6), grads.data(7));
  combined.run(dg.data_ptr(), grads.data(1), grads.data(6), grads.data(7));

  if (layer.type == Dtype::f64)
    add<double>(dg.data_ptr(), own, batch * m * n);
  else
    add<float>(dg.data_ptr(), own, batch * m * n);
  const Buffer pooled = pooled_of(inputs, layer.input);
  const Buffer dz(batch * m * layer.input.channels, layer.type);
  const GateGradients of_gates(batch, gate.parameters, layer.type);
  const std::vector<Map> none(m);
  run(CrossConnectBackward{.geometry = layer.input,
                           .gate = gate.parameters,
                           .xs = none.data(),
                           .grad_ys = nullptr,
                           .output_of = nullptr,
                           .present = 0,
                           .grad_xs = none.data(),
                           .grad_gates = dg.data_ptr(),
                           .gates = g.data_ptr(),
                           .pooled = pooled.data_ptr(),
                           .grad_pooled = dz.data_ptr(),
                           .grad_logits = of_gates.grad_logits.data_ptr(),
                           .grad_hidden = of_gates.grad_hidden.data_ptr(),
                           .hidden = of_gates.hidden.data_ptr(),
                           .parameters_wanted = true},
      2 * m);
  of_gates.sum(layer.input, pooled.data_ptr(), w1, w2, grads, 2);

  run(PredictBackward{.geometry = layer.input,
                      .inputs = m,
                      .rows = layer.rows,
                      .xs = inputs.data(),
                      .weight = w.data_ptr(),
                      .grad_us = du.data_ptr(),
                      .grad_pooled = dz.data_ptr(),
                      .grad_xs = grad_inputs.data(),
                      .grad_weight = grads.data(0)});
  return {grad_inputs.finish(), grads.finish()};
}

}  // namespace
}  // namespace mpk::cpu

STABLE_TORCH_LIBRARY_IMPL(mpkernels, CPU, library) {
  library.impl("cross_predict", &mpk::cpu::switched<"cross_predict", &mpk::cpu::cross_predict>);
  library.impl("cross_predict_backward",
               &mpk::cpu::switched<"cross_predict_backward", &mpk::cpu::cross_predict_backward>);
}
