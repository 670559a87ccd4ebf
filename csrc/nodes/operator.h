// An operator of torch's dispatcher, and the arguments of a call as tensors and integers.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <optional>
#include <string>
#include <vector>

namespace mpk::nodes {

enum class Kind { tensor, tensors, optional_tensors, number, flag };

struct Arguments {
  std::vector<at::Tensor> tensors;  // those that are not None
  // Of each argument in order: nothing of a tensor, the length of a list, length and presence (one
  // bit each) of a list that may hold None, or the value of a number.
  std::vector<int64_t> form;
};

class Operator {
 public:
  // Tensors and Nones of a call, each of which has a bit of its own in `wanted`.
  static constexpr int64_t most = 62;

  // `kept` outputs follow the maps, of which the last `hidden` have no gradient
  // (mpkernels/ops/operator.py). An operator that is not routed has no node here.
  Operator(const std::string& name, bool routed, int64_t kept, int64_t hidden);

  std::vector<at::Tensor> compute(const Arguments& arguments) const;
  std::vector<at::Tensor> record(const Arguments& arguments) const;
  // Gradients of the tensors, undefined where `wanted` says no.
  std::vector<at::Tensor> gradients(const std::vector<at::Tensor>& grads,
                                    c10::ArrayRef<at::Tensor> kept,
                                    c10::ArrayRef<at::Tensor> tensors, c10::ArrayRef<int64_t> form,
                                    const std::vector<bool>& wanted) const;

  const std::vector<Kind> kinds;
  const bool routed;
  const int64_t kept, hidden;

 private:
  void push(torch::jit::Stack& stack, c10::ArrayRef<at::Tensor> tensors,
            c10::ArrayRef<int64_t> form) const;
  int64_t mask(c10::ArrayRef<int64_t> form, const std::vector<bool>& wanted) const;

  const c10::OperatorHandle forward_;
  const std::optional<c10::OperatorHandle> backward_;
};

}  // namespace mpk::nodes
