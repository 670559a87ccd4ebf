// What callers of backward kernels allocate: maps of a cross_connect, gradients of parameters.
#pragma once

#include <vector>

#include "tensors.h"

namespace mpk {

// Which gradients are wanted. Bit q is the flag of tensor q of the arguments; those beyond 62 share
// the last bit (mpkernels/ops/flags.py).
class Wanted {
 public:
  explicit Wanted(int64_t bits) : bits_(bits) {}
  bool operator[](int64_t q) const { return bits_ >> (q < 62 ? q : 62) & 1; }

 private:
  int64_t bits_;
};

// Null for a None.
inline std::vector<const Tensor*> pointers_to(const std::vector<OptionalTensor>& tensors) {
  std::vector<const Tensor*> pointers;
  pointers.reserve(tensors.size());
  for (const OptionalTensor& t : tensors) pointers.push_back(t ? &*t : nullptr);
  return pointers;
}

// The maps of cross_connect's backward. Outputs without a gradient are left out.
struct BackwardMaps {
  Maps inputs, grad_outputs, grad_inputs;
  std::vector<int64_t> output_of;  // of each gradient, which output it is

  // The first n of `grads` are those of the outputs.
  BackwardMaps(const std::vector<OptionalTensor>& grads, int64_t n, const std::vector<Tensor>& xs,
               const Wanted& wanted, const Geometry& geometry)
      : inputs(int64_t(xs.size())), grad_outputs(n), grad_inputs(int64_t(xs.size())) {
    output_of.reserve(n);
    for (int64_t j = 0; j < n; j++) {
      if (!grads[j]) continue;
      grad_outputs.read(*grads[j], geometry);
      output_of.push_back(j);
    }
    for (int64_t i = 0; i < int64_t(xs.size()); i++) {
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
  // The parameters, null for a None, are the arguments from `first` on.
  ParameterGradients(const std::vector<const Tensor*>& parameters, const Wanted& wanted,
                     int64_t first, Dtype type)
      : type_(type), grads_(parameters.size()), dtypes_(parameters.size()) {
    for (size_t q = 0; q < parameters.size(); q++) {
      const Tensor* like = parameters[q];
      if (!like || !wanted[first + int64_t(q)]) continue;
      grads_[q] = empty(*like, like->sizes(), like->dim(), type);
      dtypes_[q] = like->dtype();
    }
  }

  bool any() const {
    for (const OptionalTensor& one : grads_)
      if (one) return true;
    return false;
  }
  // Of parameter q, null where its gradient is not wanted.
  void* data(size_t q) const { return grads_[q] ? grads_[q]->data_ptr() : nullptr; }

  // Appends them, in the order and the dtypes of the parameters.
  std::vector<Tensor> finish(std::vector<Tensor> grads) {
    grads.reserve(grads.size() + grads_.size());
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
