// Between torch's tensors and the predictions that the kernels combine and differentiate.
#pragma once

#include "cpu/tasks.h"
#include "gradients.h"

namespace mpk::cpu {

inline Buffer filled(int64_t elements, Dtype type, double value) {
  Buffer buffer(elements, type);
  for (int64_t q = 0; q < elements; q++) {
    if (type == Dtype::f64)
      static_cast<double*>(buffer.data_ptr())[q] = value;
    else
      static_cast<float*>(buffer.data_ptr())[q] = float(value);
  }
  return buffer;
}

// What follows the gates in combine, as the kernels read it. Rejects whatever
// mpkernels/ops/check.py rejects; check.py then produces the message.
class CombineParameters {
 public:
  // `affine` are a bias, a scale and a shift; `channels` are those of U_i, n C'.
  CombineParameters(int64_t m, int64_t n, int64_t channels,
                    const std::vector<OptionalTensor>& affine, Dtype type)
      : bias_(values_of(checked(affine)[0], type)),
        scale_(values_of(affine[1], type)),
        shift_(values_of(affine[2], type)),
        ones_(filled(scale_ ? 0 : channels, type, 1)),
        zeros_(filled(bias_ && shift_ ? 0 : m * channels, type, 0)) {
    const auto& [bias, scale, shift] = std::tie(affine[0], affine[1], affine[2]);
    STD_TORCH_CHECK(channels % n == 0, "predictions must be [B, n*C', *spatial]");
    STD_TORCH_CHECK(!bias || bias->has_shape({m, channels}), "bias must be [m, n*C']");
    STD_TORCH_CHECK(!scale || scale->has_shape({n, channels / n}), "scale must be [n, C']");
    STD_TORCH_CHECK(!shift || shift->has_shape({n, channels / n}), "shift must be [n, C']");
  }

  // Of outputs of this geometry.
  Predictions predictions(const Geometry& output, int64_t m, int64_t n, const Gates& gates,
                          const Map* us, bool relu) const {
    return {.geometry = output,
            .inputs = m,
            .outputs = n,
            .gates = gates,
            .bias = bias_ ? bias_->data_ptr() : zeros_.data_ptr(),
            .scale = scale_ ? scale_->data_ptr() : ones_.data_ptr(),
            .shift = shift_ ? shift_->data_ptr() : zeros_.data_ptr(),
            .relu = relu,
            .us = us};
  }

 private:
  static const std::vector<OptionalTensor>& checked(const std::vector<OptionalTensor>& affine) {
    STD_TORCH_CHECK(affine.size() == 3, "affine must be [bias, scale, shift]");
    return affine;
  }

  std::optional<Values> bias_, scale_, shift_;
  Buffer ones_, zeros_;
};

// The backward of combine: dU, and what its parts leave for the gradients of the parameters.
class CombineGradients {
 public:
  // The last three tell whether these gradients are wanted.
  CombineGradients(const Predictions& p, const Map* grad_ys, const Map* grad_us, bool grad_bias,
                   bool grad_scale, bool grad_shift)
      : dots_(p.geometry.batch * combine_parts(p.geometry) * p.inputs * p.outputs, type_of(p)),
        sums_(grad_bias || grad_shift ? sums_of(p) : 0, type_of(p)),
        products_(grad_scale ? sums_of(p) : 0, type_of(p)),
        problem_{.predictions = p,
                 .grad_ys = grad_ys,
                 .grad_us = grad_us,
                 .dots = dots_.data_ptr(),
                 .sums = grad_bias || grad_shift ? sums_.data_ptr() : nullptr,
                 .products = grad_scale ? products_.data_ptr() : nullptr} {}

  // Writes dU, then the gradients of gates, bias, scale and shift that are not null.
  void run(void* grad_gates, void* grad_bias, void* grad_scale, void* grad_shift) const {
    mpk::cpu::run(problem_);
    if (!grad_gates && !grad_bias && !grad_scale && !grad_shift) return;
    mpk::cpu::run(CombineParameterGradients{
        .predictions = problem_.predictions,
        .grad_ys = problem_.grad_ys,
        .dots = problem_.dots,
        .sums = problem_.sums,
        .products = problem_.products,
        .grad_gates = grad_gates,
        .grad_bias = grad_bias,
        .grad_scale = grad_scale,
        .grad_shift = grad_shift,
    });
  }

 private:
  Buffer dots_, sums_, products_;
  CombineBackward problem_;

  static Dtype type_of(const Predictions& p) { return accumulate_type(p.geometry.dtype); }
  static int64_t sums_of(const Predictions& p) {
    const Geometry& geometry = p.geometry;
    return geometry.batch * combine_sum_parts(geometry) * p.outputs * geometry.channels;
  }
};

}  // namespace mpk::cpu
