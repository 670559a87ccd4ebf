// What autograd keeps of a call, and runs backward: mpkernels/ops/operator.py's autograd.Function
// in C++, for the calls that mpkernels/ops/short_way.py may take.
#include <ATen/core/LegacyTypeDispatch.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/forward_grad.h>

#include "nodes/operator.h"
#include "nodes/python.h"

namespace mpk::nodes {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const char* const saved_form = "form";  // the operator's address, then the form

struct Routed : torch::autograd::Function<Routed> {
  // The engine of compiled autograd may trace `backward`: it calls the dispatcher alone.
  static constexpr bool is_traceable = true;

  // Outputs without a gradient go to `hidden`, where autograd does not see them: compiled autograd
  // refuses those that are marked as not differentiable.
  static variable_list forward(AutogradContext* ctx, at::TensorList tensors, const Operator* of,
                               const Arguments* arguments, variable_list* hidden) {
    variable_list outputs = of->compute(*arguments);
    variable_list saved(outputs.end() - of->kept, outputs.end());
    saved.insert(saved.end(), tensors.begin(), tensors.end());
    ctx->save_for_backward(std::move(saved));
    ctx->set_materialize_grads(false);
    hidden->assign(outputs.end() - of->hidden, outputs.end());
    outputs.resize(outputs.size() - size_t(of->hidden));
    c10::List<int64_t> form;
    form.reserve(arguments->form.size() + 1);
    form.push_back(int64_t(reinterpret_cast<intptr_t>(of)));
    for (const int64_t value : arguments->form) form.push_back(value);
    ctx->saved_data[saved_form] = std::move(form);
    return outputs;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const std::vector<int64_t> form = ctx->saved_data[saved_form].toIntVector();
    const auto* of = reinterpret_cast<const Operator*>(intptr_t(form[0]));
    const variable_list saved = ctx->get_saved_variables();
    const c10::ArrayRef<at::Tensor> all(saved);
    const auto kept = all.slice(0, size_t(of->kept)), tensors = all.slice(size_t(of->kept));
    std::vector<bool> wanted(tensors.size());
    for (size_t q = 0; q < wanted.size(); q++) wanted[q] = ctx->needs_input_grad(q);
    variable_list found = as_recorded([&] {
      std::optional<at::AutoDispatchBelowAutograd> below;
      if (!is_derived()) below.emplace();
      return of->gradients(grads, kept, tensors, c10::ArrayRef<int64_t>(form).slice(1), wanted);
    });
    found.resize(tensors.size() + 3);  // `forward` has three arguments that are no tensors
    return found;
  }

  // Whether this backward may itself be differentiated.
  static bool is_derived() {
    return at::GradMode::is_enabled() || torch::autograd::ForwardADLevel::try_get_by_idx(0);
  }
};

}  // namespace

std::vector<at::Tensor> Operator::record(const Arguments& arguments) const {
  std::vector<at::Tensor> hidden;
  auto outputs = Routed::apply(at::TensorList(arguments.tensors), this, &arguments, &hidden);
  outputs.insert(outputs.end(), hidden.begin(), hidden.end());
  return outputs;
}

}  // namespace mpk::nodes
