// Gradients of combine's gates and parameters from what its backward left for each part: sums over
// parts and over the batch, always in one order, so that they do not depend on the threads.
#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "cpu/kernels.h"
#include "cpu/pairwise.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

constexpr int64_t channels_of_task = 64;

// term(0) + ... + term(count - 1)
template <class Sum, class Term>
inline Sum sum_terms(int64_t count, Term term) {
  return pairwise_sum(blocks_of(count, longest_chain), [&](int64_t block) {
    const int64_t first = block * longest_chain, last = std::min(first + longest_chain, count);
    Sum sum{};
    for (int64_t at = first; at < last; at++) sum += term(at);
    return sum;
  });
}

template <class A>
void sum_gates(const CombineParameterGradients& p) {
  const Predictions& of = p.predictions;
  const int64_t parts = combine_parts(of.geometry), gates = of.inputs * of.outputs;
  const A* from = static_cast<const A*>(p.dots);
  A* to = static_cast<A*>(p.grad_gates);
  for (int64_t b = 0; to && b < of.geometry.batch; b++, to += gates)
    for (int64_t q = 0; q < gates; q++)
      to[q] =
          sum_terms<A>(parts, [&](int64_t part) { return from[(b * parts + part) * gates + q]; });
}

// to[c] = scale[c] sum_b weight(b) sum of parts from[b, part, c], for `size` channels; `scale` and
// `to` may be null. Nothing is added where the output has no gradient, whatever its weights are.
template <class A, class Weight>
void sum_batch(const Predictions& p, bool used, const A* from, int64_t size, const A* scale, A* to,
               Weight weight) {
  if (!to) return;
  if (!used) {
    std::memset(to, 0, size_t(size) * sizeof(A));
    return;
  }
  const int64_t parts = combine_sum_parts(p.geometry), row = p.outputs * p.geometry.channels;
  for_lanes<A>(size, [&](auto lanes, int64_t c) {
    const auto of_sample = [&](int64_t b) {
      const auto of_part = [&](int64_t at) {
        return lanes.load(from + (b * parts + at) * row + c);
      };
      return sum_terms<Vec<A>>(parts, of_part) * weight(b);
    };
    const auto total = sum_terms<Vec<A>>(p.geometry.batch, of_sample);
    lanes.store(to + c, scale ? Vec<A>(total * lanes.load(scale + c)) : total);
  });
}

// Channels from `first` on of output j.
template <class A>
void sum_channels(const CombineParameterGradients& p, int64_t j, int64_t first) {
  const Predictions& of = p.predictions;
  const int64_t channels = of.geometry.channels, left = channels - first;
  const int64_t size = left < channels_of_task ? left : channels_of_task;
  const int64_t at = j * channels + first, row = of.outputs * channels;
  const auto place = [](const void* base, int64_t offset) {
    return base ? const_cast<A*>(static_cast<const A*>(base)) + offset : nullptr;
  };
  const A *sums = place(p.sums, at), *products = place(p.products, at);
  const A* none = nullptr;
  const auto one = [](int64_t) { return A(1); };
  const bool used = p.grad_ys[j].data != nullptr;
  sum_batch(of, used, sums, size, none, place(p.grad_shift, at), one);
  sum_batch(of, used, products, size, none, place(p.grad_scale, at), one);
  for (int64_t i = 0; i < of.inputs; i++) {
    const Gates& g = of.gates;
    const A* gates = static_cast<const A*>(g.data) + i * g.input_stride + j * g.output_stride;
    sum_batch(of, used, sums, size, static_cast<const A*>(of.scale) + at,
              place(p.grad_bias, i * row + at),
              [&](int64_t b) { return gates[b * g.batch_stride]; });
  }
}

template <class A>
void sum_tasks(const CombineParameterGradients& p, int64_t begin, int64_t end) {
  const int64_t last = combine_tasks(p.predictions) - 1, outputs = p.predictions.outputs;
  for (int64_t task = begin; task < end; task++) {
    if (task == last)
      sum_gates<A>(p);
    else
      sum_channels<A>(p, task % outputs, task / outputs * channels_of_task);
  }
}

}  // namespace

void combine_parameter_gradients(const CombineParameterGradients& p, int64_t begin, int64_t end) {
  if (p.predictions.geometry.dtype == Dtype::f64)
    sum_tasks<double>(p, begin, end);
  else
    sum_tasks<float>(p, begin, end);
}

}  // namespace mpk::cpu::MPK_NAMESPACE
