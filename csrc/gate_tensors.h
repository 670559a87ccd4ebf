// A gate's parameters between torch's tensors and the kernels' structs.
#pragma once

#include <vector>

#include "gradients.h"

namespace mpk {

// What users pass as `gate` and `kind`, contiguous and in the accumulate dtype. Rejects whatever
// mpkernels/ops/check.py rejects; check.py then produces the message.
class GateTensors {
 public:
  static constexpr int64_t count = 4;  // w1, b1, w2, b2

  GateTensors(const std::vector<OptionalTensor>& gate, int64_t kind, int64_t m, int64_t channels,
              Dtype type)
      : inputs(m),
        outputs(checked(gate, kind)[2]->size(1)),
        hidden(gate[0]->size(1)),
        kind_(GateKind(kind)),
        w1_(*gate[0], type),
        w2_(*gate[2], type),
        b1_(values_of(gate[1], type)),
        b2_(values_of(gate[3], type)) {
    STD_TORCH_CHECK(gate[0]->has_shape({m, hidden, channels}), "w1 must be [m, K, C]");
    STD_TORCH_CHECK(gate[2]->has_shape({m, outputs, hidden}), "w2 must be [m, n, K]");
    STD_TORCH_CHECK(!gate[1] || gate[1]->has_shape({m, hidden}), "b1 must be [m, K]");
    STD_TORCH_CHECK(!gate[3] || gate[3]->has_shape({m, outputs}), "b2 must be [m, n]");
  }

  const int64_t inputs, outputs, hidden;

  GateParameters parameters() const {
    return {.kind = kind_,
            .inputs = inputs,
            .outputs = outputs,
            .hidden = hidden,
            .w1 = w1_.data_ptr(),
            .w1_by_channel = nullptr,
            .b1 = b1_ ? b1_->data_ptr() : nullptr,
            .w2 = w2_.data_ptr(),
            .b2 = b2_ ? b2_->data_ptr() : nullptr};
  }

 private:
  static const std::vector<OptionalTensor>& checked(const std::vector<OptionalTensor>& gate,
                                                    int64_t kind) {
    STD_TORCH_CHECK(kind >= 0 && kind < gate_kinds, "kind must be that of a gate");
    STD_TORCH_CHECK(gate.size() == count, "gate must be [w1, b1, w2, b2]");
    for (const int64_t weight : {0, 2})
      STD_TORCH_CHECK(gate[weight] && gate[weight]->dim() == 3 && gate[weight]->size(1) > 0,
                      "w1 must be [m, K, C] and w2 [m, n, K]");
    return gate;
  }

  GateKind kind_;
  Values w1_, w2_;
  std::optional<Values> b1_, b2_;
};

// What the backward of cross_connect takes beside its arguments: the gradients of the outputs and
// of the gates, gates and pooled values.
inline void check_grads_and_kept(const std::vector<OptionalTensor>& grads,
                                 const std::vector<Tensor>& kept, const Geometry& geometry,
                                 int64_t m, int64_t n) {
  STD_TORCH_CHECK(int64_t(grads.size()) == n + 1, "grads must hold those of n outputs and gates");
  STD_TORCH_CHECK(kept.size() == 2, "kept must be gates and pooled");
  STD_TORCH_CHECK(kept[0].has_shape({geometry.batch, m, n}), "gates must be [B, m, n]");
  STD_TORCH_CHECK(!grads[n] || grads[n]->has_shape({geometry.batch, m, n}),
                  "the gradient of the gates must be [B, m, n]");
  STD_TORCH_CHECK(kept[1].has_shape({geometry.batch, m, geometry.channels}),
                  "pooled must be [B, m, C]");
}

// What the launch or loop over samples leaves for the gradients of the parameters.
struct GateRests {
  const void* pooled;  // [B, m, C]
  void *grad_logits, *grad_hidden, *hidden;
};

// The sums over the batch that write dW1, db1, dW2 and db2, the gradients from `first` on.
inline GateWeightGradients gate_weight_gradients(const Geometry& geometry, const GateTensors& gate,
                                                 const GateRests& rests,
                                                 const ParameterGradients& grads, size_t first) {
  return {.dtype = accumulate_type(geometry.dtype),
          .batch = geometry.batch,
          .channels = geometry.channels,
          .inputs = gate.inputs,
          .outputs = gate.outputs,
          .hidden_units = gate.hidden,
          .pooled = rests.pooled,
          .hidden = rests.hidden,
          .grad_logits = rests.grad_logits,
          .grad_hidden = rests.grad_hidden,
          .grad_w1 = grads.data(first),
          .grad_b1 = grads.data(first + 1),
          .grad_w2 = grads.data(first + 2),
          .grad_b2 = grads.data(first + 3)};
}

inline bool any(const GateWeightGradients& p) {
  return p.grad_w1 || p.grad_b1 || p.grad_w2 || p.grad_b2;
}

}  // namespace mpk
