// Gradients of the gates' parameters: sums over the batch, always in the order of the batch, so
// that they do not depend on the number of threads.
#include "cpu/dispatch.h"
#include "cpu/entry.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

// grad_weight[c] = sum_b factor[b] value[b, c];  grad_bias = sum_b factor[b]
template <class A>
void sum_over_batch(int64_t batch, const A* factor, int64_t factor_stride, const A* value,
                    int64_t value_stride, int64_t size, A* grad_weight, A* grad_bias) {
  if (grad_bias) {
    A sum = 0;
    for (int64_t b = 0; b < batch; b++) sum += factor[b * factor_stride];
    *grad_bias = sum;
  }
  if (!grad_weight) return;
  for_lanes<A>(size, [&](auto sum, int64_t c) {
    using V = decltype(sum);
    for (int64_t b = 0; b < batch; b++)
      sum += load<V>(value + b * value_stride + c) * factor[b * factor_stride];
    store(grad_weight + c, sum);
  });
}

template <class A>
A* offset(void* base, int64_t elements) {
  return base ? static_cast<A*>(base) + elements : nullptr;
}

template <class A>
void sum_rows(const GateWeightGradients& p, int64_t begin, int64_t end) {
  const int64_t m = p.inputs, n = p.outputs, units = p.hidden_units, channels = p.channels;
  const A* pooled = static_cast<const A*>(p.pooled);
  const A* hidden = static_cast<const A*>(p.hidden);
  const A* grad_logits = static_cast<const A*>(p.grad_logits);
  const A* grad_hidden = static_cast<const A*>(p.grad_hidden);
  for (int64_t row = begin; row < end; row++) {
    if (row < m * units) {
      const int64_t i = row / units;
      sum_over_batch<A>(p.batch, grad_hidden + row, m * units, pooled + i * channels, m * channels,
                        channels, offset<A>(p.grad_w1, row * channels), offset<A>(p.grad_b1, row));
    } else {
      const int64_t at = row - m * units, i = at / n;
      sum_over_batch<A>(p.batch, grad_logits + at, m * n, hidden + i * units, m * units, units,
                        offset<A>(p.grad_w2, at * units), offset<A>(p.grad_b2, at));
    }
  }
}

}  // namespace

void gate_weight_gradients(const GateWeightGradients& p, int64_t begin, int64_t end) {
  if (p.dtype == Dtype::f64)
    sum_rows<double>(p, begin, end);
  else
    sum_rows<float>(p, begin, end);
}

}  // namespace mpk::cpu::MPK_NAMESPACE
