// Gradients of the gates' parameters: sums over the batch, always in the order of the batch, so
// that they do not depend on the number of threads.
#include "cpu/pairwise.h"
#include "problem.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

template <class A>
A* offset(void* base, int64_t elements) {
  return base ? static_cast<A*>(base) + elements : nullptr;
}

template <class A>
Column<A> column(const void* data, int64_t inputs, int64_t i, int64_t size) {
  return {.data = static_cast<const A*>(data) + i * size, .stride = inputs * size};
}

// Tasks are eights of hidden units of a path, and, first of a path, all its logits.
template <class A>
void sum_tasks(const GateWeightGradients& p, int64_t begin, int64_t end) {
  const int64_t m = p.inputs, n = p.outputs, units = p.hidden_units, channels = p.channels;
  const int64_t eights = (units + 7) / 8;
  for (int64_t task = begin; task < end; task++) {
    const int64_t i = task / eights, k = task % eights * 8;
    Column<A> dh = column<A>(p.grad_hidden, m, i, units);
    dh.data += k;
    sum_over_batch<A>(
        p.batch, dh, units - k < 8 ? units - k : 8, column<A>(p.pooled, m, i, channels), channels,
        offset<A>(p.grad_w1, (i * units + k) * channels), offset<A>(p.grad_b1, i * units + k));
    if (k == 0)
      sum_over_batch<A>(p.batch, column<A>(p.grad_logits, m, i, n), n,
                        column<A>(p.hidden, m, i, units), units,
                        offset<A>(p.grad_w2, i * n * units), offset<A>(p.grad_b2, i * n));
  }
}

}  // namespace

void gate_weight_gradients(const GateWeightGradients& p, int64_t begin, int64_t end) {
  if (p.dtype == Dtype::f64)
    sum_tasks<double>(p, begin, end);
  else
    sum_tasks<float>(p, begin, end);
}

}  // namespace mpk::cpu::MPK_NAMESPACE
