#include "nodes/operator.h"

#include <ATen/core/LegacyTypeDispatch.h>

namespace mpk::nodes {
namespace {

c10::OperatorHandle found(const std::string& name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(("mpkernels::" + name).c_str(), "");
}

std::vector<Kind> kinds_of(const c10::FunctionSchema& schema) {
  std::vector<Kind> kinds;
  for (const c10::Argument& argument : schema.arguments()) {
    const std::string type = argument.type()->str();
    if (type == "Tensor")
      kinds.push_back(Kind::tensor);
    else if (type == "Tensor[]")
      kinds.push_back(Kind::tensors);
    else if (type == "Tensor?[]")
      kinds.push_back(Kind::optional_tensors);
    else if (type == "bool")
      kinds.push_back(Kind::flag);
    else {
      TORCH_CHECK(type == "int", "an operator takes no ", type);
      kinds.push_back(Kind::number);
    }
  }
  return kinds;
}

c10::List<std::optional<at::Tensor>> optional_list(c10::ArrayRef<at::Tensor> tensors) {
  c10::List<std::optional<at::Tensor>> list;
  list.reserve(tensors.size());
  for (const at::Tensor& t : tensors) list.push_back(t.defined() ? std::optional(t) : std::nullopt);
  return list;
}

c10::List<at::Tensor> list_of(c10::ArrayRef<at::Tensor> tensors) {
  c10::List<at::Tensor> list;
  list.reserve(tensors.size());
  for (const at::Tensor& t : tensors) list.push_back(t);
  return list;
}

}  // namespace

Operator::Operator(const std::string& name, bool routed, int64_t kept, int64_t hidden)
    : kinds(kinds_of(found(name).schema())),
      routed(routed),
      kept(kept),
      hidden(hidden),
      forward_(found(name)),
      backward_(routed ? std::optional(found(name + "_backward")) : std::nullopt) {}

void Operator::push(torch::jit::Stack& stack, c10::ArrayRef<at::Tensor> tensors,
                    c10::ArrayRef<int64_t> form) const {
  size_t at = 0, read = 0;
  for (const Kind kind : kinds) {
    switch (kind) {
      case Kind::tensor:
        stack.emplace_back(tensors[at++]);
        break;
      case Kind::tensors: {
        const auto length = size_t(form[read++]);
        stack.emplace_back(list_of(tensors.slice(at, length)));
        at += length;
        break;
      }
      case Kind::optional_tensors: {
        const int64_t length = form[read++], present = form[read++];
        c10::List<std::optional<at::Tensor>> list;
        list.reserve(size_t(length));
        for (int64_t q = 0; q < length; q++)
          list.push_back(present >> q & 1 ? std::optional(tensors[at++]) : std::nullopt);
        stack.emplace_back(std::move(list));
        break;
      }
      case Kind::number:
        stack.emplace_back(form[read++]);
        break;
      case Kind::flag:
        stack.emplace_back(form[read++] != 0);
        break;
    }
  }
}

// The `wanted` of a backward's schema (mpkernels/ops/schemas.def).
int64_t Operator::mask(c10::ArrayRef<int64_t> form, const std::vector<bool>& wanted) const {
  int64_t mask = 0, q = 0;
  size_t at = 0, read = 0;
  const auto add = [&](bool present) {
    if (present && wanted[at++]) mask |= int64_t(1) << q;
    q++;
  };
  for (const Kind kind : kinds) {
    if (kind == Kind::tensor) {
      add(true);
    } else if (kind == Kind::tensors) {
      const int64_t length = form[read++];
      for (int64_t i = 0; i < length; i++) add(true);
    } else if (kind == Kind::optional_tensors) {
      const int64_t length = form[read++], present = form[read++];
      for (int64_t i = 0; i < length; i++) add(present >> i & 1);
    } else {
      read++;
    }
  }
  return mask;
}

std::vector<at::Tensor> Operator::compute(const Arguments& arguments) const {
  torch::jit::Stack stack;
  stack.reserve(kinds.size());
  push(stack, arguments.tensors, arguments.form);
  const at::AutoDispatchBelowAutograd below;
  forward_.callBoxed(stack);
  return stack[0].toTensorVector();
}

std::vector<at::Tensor> Operator::gradients(const std::vector<at::Tensor>& grads,
                                            c10::ArrayRef<at::Tensor> kept,
                                            c10::ArrayRef<at::Tensor> tensors,
                                            c10::ArrayRef<int64_t> form,
                                            const std::vector<bool>& wanted) const {
  torch::jit::Stack stack;
  stack.reserve(kinds.size() + 3);
  stack.emplace_back(optional_list(grads));
  stack.emplace_back(list_of(kept));
  push(stack, tensors, form);
  stack.emplace_back(mask(form, wanted));
  backward_->callBoxed(stack);
  const auto results = stack[0].toTensorList();
  std::vector<at::Tensor> placed(tensors.size());
  size_t next = 0;
  for (size_t q = 0; q < placed.size(); q++)
    if (wanted[q]) placed[q] = results.get(next++);
  return placed;
}

}  // namespace mpk::nodes
