// What callers of backward kernels allocate: maps of a cross_connect, gradients of parameters.
#pragma once

#include <initializer_list>
#include <vector>

#include "tensors.h"

namespace mpk {

// The maps of cross_connect's backward. Outputs without a gradient are left out.
struct BackwardMaps {
  Maps inputs, grad_outputs, grad_inputs;
  std::vector<int64_t> output_of;  // of each gradient, which output it is

  BackwardMaps(const std::vector<OptionalTensor>& grad_ys, const std::vector<Tensor>& xs,
               const std::vector<bool>& wanted, const Geometry& geometry)
      : inputs(int64_t(xs.size())),
        grad_outputs(int64_t(grad_ys.size())),
        grad_inputs(int64_t(xs.size())) {
    output_of.reserve(grad_ys.size());
    for (size_t j = 0; j < grad_ys.size(); j++) {
      if (!grad_ys[j]) continue;
      grad_outputs.read(*grad_ys[j], geometry);
      output_of.push_back(int64_t(j));
    }
    for (size_t i = 0; i < xs.size(); i++) {
      inputs.read(xs[i], geometry);
      if (wanted[i])
        grad_inputs.write(xs[i], geometry);
      else
        grad_inputs.skip();
    }
  }
};

// Gradients of some parameters, null where one is not wanted. Kernels write them
// in the accumulate dtype.
class ParameterGradients {
 public:
  // The last flags of `wanted` are the parameters'.
  ParameterGradients(std::initializer_list<const Tensor*> parameters,
                     const std::vector<bool>& wanted, Dtype type)
      : type_(type), grads_(parameters.size()), dtypes_(parameters.size()) {
    STD_TORCH_CHECK(wanted.size() >= parameters.size(),
                    "wanted must hold a flag for each parameter");
    size_t q = 0, flag = wanted.size() - parameters.size();
    for (const Tensor* like : parameters) {
      if (wanted[flag++]) {
        STD_TORCH_CHECK(like, "a gradient of None must not be wanted");
        grads_[q] = empty(*like, like->sizes(), like->dim(), type);
        dtypes_[q] = like->dtype();
      }
      q++;
    }
  }

  bool any() const {
    for (const OptionalTensor& one : grads_)
      if (one) return true;
    return false;
  }
  // Of parameter q, null where its gradient is not wanted.
  void* data(size_t q) const { return grads_[q] ? grads_[q]->data_ptr() : nullptr; }

  // In the order and the dtypes of the parameters.
  std::vector<Tensor> finish() {
    std::vector<Tensor> grads;
    grads.reserve(grads_.size());
    for (size_t q = 0; q < grads_.size(); q++)
      if (grads_[q])
        grads.push_back(dtypes_[q] == type_ ? std::move(*grads_[q])
                                            : contiguous_copy(*grads_[q], dtypes_[q]));
    return grads;
  }

 private:
  Dtype type_;
  std::vector<OptionalTensor> grads_;
  std::vector<Dtype> dtypes_;
};

}  // namespace mpk
