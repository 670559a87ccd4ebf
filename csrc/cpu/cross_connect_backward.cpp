// Gradients of cross_connect (Eq. 8 and 9 with the pool and both layers of the gates).
//
// Moves (m + n)|X| from and m|X| to memory; the second read of a group's dY hits the cache.
#include <cstring>

#include "cpu/gate.h"
#include "cpu/kernels.h"
#include "cpu/mix.h"
#include "cpu/processor.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

// Where each part of the scratch memory of a group begins.
template <class A>
struct Scratch {
  A* d;        // [group, m, n]
  A* dots;     // [group, m, present]: <dY_j, X_i>
  A* gates;    // [group, m, present]: the gates of outputs that have a gradient
  A* partial;  // [m, present]: the dots of one part
  A* waiting;  // [levels, m, present]: sums of parts
  A* grad_z;   // [group, m, C], divided by S
  int64_t pairs, maps;

  Scratch(const CrossConnectBackward& p, int64_t group, void* memory)
      : d(static_cast<A*>(memory)),
        dots(d + group * p.gate.inputs * p.gate.outputs),
        gates(dots + group * p.gate.inputs * p.gate.outputs),
        partial(gates + group * p.gate.inputs * p.gate.outputs),
        waiting(partial + p.gate.inputs * p.gate.outputs),
        grad_z(waiting + part_levels(p.geometry) * p.gate.inputs * p.gate.outputs),
        pairs(p.gate.inputs * p.present),
        maps(p.gate.inputs * p.geometry.channels) {}
  A* dots_of(int64_t at) const { return dots + at * pairs; }
  A* gates_of(int64_t at) const { return gates + at * pairs; }
  A* grad_z_of(int64_t at) const { return grad_z + at * maps; }
};

bool reads(const CrossConnectBackward& p, int64_t i) {
  return p.parameters_wanted || p.grad_xs[i].data != nullptr;
}

// Whether every input is read and every one's gradient wanted: the usual case, taken in one pass.
bool complete(const CrossConnectBackward& p) {
  bool all = p.present > 0;
  for (int64_t i = 0; i < p.gate.inputs; i++) all &= p.grad_xs[i].data != nullptr;
  return all;
}

// <dY_j, X_i> of parts [begin, end) of sample b; `partial` holds [m, present] for each part.
template <class T, int M, int N, class A = Accumulate<T>>
void dots_of_parts(const CrossConnectBackward& p, int64_t b, int64_t begin, int64_t end,
                   A* partial) {
  const int64_t m = p.gate.inputs;
  const Paths xs{.maps = p.xs, .count = m, .sample = b};
  const Paths grad_ys{.maps = p.grad_ys, .count = p.present, .sample = b};
  bool all = true;
  for (int64_t i = 0; i < m; i++) all &= reads(p, i);
  for (int64_t part = begin; part < end; part++, partial += m * p.present) {
    const Block rows = parts_of(p.geometry, part, part + 1);
    if (all) {
      dot_rows<T, M, N>(xs, grad_ys, rows, partial);
      continue;
    }
    for (int64_t i = 0; i < m; i++)
      if (reads(p, i))
        dot_rows<T, 0, 0>({.maps = p.xs + i, .count = 1, .sample = b}, grad_ys, rows,
                          partial + i * p.present);
  }
}

// The dots of a sample from those of its parts, which part(at) leaves where it says.
template <class A, class PartOf>
void add_parts(const CrossConnectBackward& p, const Scratch<A>& scratch, PartOf part, A* dots) {
  const int64_t count = p.present > 0 ? parts(p.geometry) : 0;
  if (count == 0) std::memset(dots, 0, size_t(scratch.pairs) * sizeof(A));
  PairwiseRows<A> sums(count, scratch.pairs, scratch.waiting);
  for (int64_t at = 0; at < count; at++) {
    A* of_part = part(at);
    sums.add(of_part);
    if (at + 1 == count) std::memcpy(dots, of_part, size_t(scratch.pairs) * sizeof(A));
  }
}

template <class T, int M, int N, class A = Accumulate<T>>
void dots_of_sample(const CrossConnectBackward& p, int64_t b, const Scratch<A>& scratch, A* dots) {
  const auto part = [&](int64_t at) {
    dots_of_parts<T, M, N>(p, b, at, at + 1, scratch.partial);
    return scratch.partial;
  };
  add_parts(p, scratch, part, dots);
}

// From <dY_j, X_i> of samples [begin, end) to all that their dX needs beside dY.
template <class A>
__attribute__((noinline)) void differentiate_gates(const CrossConnectBackward& p, int64_t begin,
                                                   int64_t end, const Scratch<A>& scratch) {
  const int64_t m = p.gate.inputs, n = p.gate.outputs, hidden = p.gate.hidden;
  const int64_t channels = p.geometry.channels, count = end - begin;
  const A* grad_gates = static_cast<const A*>(p.grad_gates);
  const A* g = static_cast<const A*>(p.gates) + begin * m * n;
  for (int64_t q = 0; q < count * m; q++) {
    A* d = scratch.d + q * n;
    for (int64_t j = 0; j < n; j++) d[j] = grad_gates ? grad_gates[(begin * m + q) * n + j] : A(0);
    for (int64_t o = 0; o < p.present; o++) {
      d[p.output_of[o]] += scratch.dots[q * p.present + o];
      scratch.gates[q * p.present + o] = g[q * n + p.output_of[o]];
    }
  }
  for (int64_t i = 0; i < m; i++) {
    if (!reads(p, i) && !p.grad_pooled) continue;
    const PathGate<A> gate(p.gate, channels, i);
    const int64_t at = begin * m + i;
    const Samples<A> h{.data = static_cast<A*>(p.hidden) + at * hidden, .stride = m * hidden};
    const Samples<A> grad_hidden{.data = static_cast<A*>(p.grad_hidden) + at * hidden,
                                 .stride = m * hidden};
    const Samples<const A> dh{.data = grad_hidden.data, .stride = m * hidden};
    gate_hidden<A>(
        gate, {.data = static_cast<const A*>(p.pooled) + at * channels, .stride = m * channels}, h,
        count);
    gate_backward<A>(
        gate, {.data = g + i * n, .stride = m * n}, {.data = scratch.d + i * n, .stride = m * n},
        {.data = h.data, .stride = m * hidden},
        {.data = static_cast<A*>(p.grad_logits) + at * n, .stride = m * n}, grad_hidden, count);
    if (p.grad_pooled)
      gate_grad_pooled<A>(
          gate, dh, A(1),
          {.data = static_cast<A*>(p.grad_pooled) + at * channels, .stride = m * channels}, count);
    if (p.grad_xs[i].data)
      gate_grad_pooled<A>(gate, dh, A(p.geometry.positions),
                          {.data = scratch.grad_z + i * channels, .stride = m * channels}, count);
  }
}

// dX of rows of sample b, from what its group's gates left at `at`.
template <class T, int M, int N>
void grads_of_rows(const CrossConnectBackward& p, int64_t b, Block rows,
                   const Scratch<Accumulate<T>>& scratch, int64_t at, bool streamed) {
  const Paths grad_ys{.maps = p.grad_ys, .count = p.present, .sample = b};
  if constexpr (M > 0)
    if (complete(p)) {
      const auto run =
          p.geometry.channels_last ? grad_rows<T, true, M, N> : grad_rows<T, false, M, N>;
      return run(p.geometry, grad_ys, {.maps = p.grad_xs, .count = M, .sample = b}, rows,
                 scratch.gates_of(at), scratch.grad_z_of(at), streamed);
    }
  for (int64_t i = 0; i < p.gate.inputs; i++)
    if (p.grad_xs[i].data)
      grad_rows_of_any<T>(p.geometry, grad_ys, {.maps = p.grad_xs + i, .count = 1, .sample = b},
                          rows, scratch.gates_of(at) + i * p.present,
                          scratch.grad_z_of(at) + i * p.geometry.channels);
}

template <class T, int M, int N>
void backward_samples(const CrossConnectBackward& p, int64_t begin, int64_t end, void* memory) {
  const int64_t group = group_size(p.geometry, 2 * p.gate.inputs + p.present);
  const Scratch<Accumulate<T>> scratch(p, group, memory);
  const bool streamed = M > 0 && complete(p) && streams(p.geometry, p.grad_xs, p.gate.inputs);
  for (int64_t first = begin; first < end; first += group) {
    const int64_t last = first + group < end ? first + group : end;
    for (int64_t b = first; b < last; b++)
      dots_of_sample<T, M, N>(p, b, scratch, scratch.dots_of(b - first));
    differentiate_gates(p, first, last, scratch);
    for (int64_t b = first; b < last; b++)
      for_rows_again(p.geometry, p.gate.inputs + p.present, [&](Block rows) {
        grads_of_rows<T, M, N>(p, b, rows, scratch, b - first, streamed);
      });
  }
  if (streamed) finish_streams();
}

}  // namespace

void cross_connect_backward(const CrossConnectBackward& p, int64_t begin, int64_t end,
                            void* scratch) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    visit_paths(p.gate.inputs, p.present,
                [&](auto m, auto n) { backward_samples<T, m, n>(p, begin, end, scratch); });
  });
}

void cross_connect_dots(const CrossConnectBackward& p, int64_t b, int64_t begin, int64_t end,
                        void* partial) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    visit_paths(p.gate.inputs, p.present, [&](auto m, auto n) {
      auto* to = static_cast<Accumulate<T>*>(partial) + begin * p.gate.inputs * p.present;
      if (p.present > 0) dots_of_parts<T, m, n>(p, b, begin, end, to);
    });
  });
}

template <class A>
static void differentiate_sample(const CrossConnectBackward& p, int64_t b, void* partial,
                                 void* memory) {
  const Scratch<A> scratch(p, 1, memory);
  const auto part = [&](int64_t at) { return static_cast<A*>(partial) + at * scratch.pairs; };
  add_parts(p, scratch, part, scratch.dots);
  differentiate_gates(p, b, b + 1, scratch);
}

void cross_connect_differentiate(const CrossConnectBackward& p, int64_t b, void* partial,
                                 void* scratch) {
  if (p.geometry.dtype == Dtype::f64)
    differentiate_sample<double>(p, b, partial, scratch);
  else
    differentiate_sample<float>(p, b, partial, scratch);
}

void cross_connect_grads(const CrossConnectBackward& p, int64_t b, int64_t begin, int64_t end,
                         void* memory) {
  const Block rows = parts_of(p.geometry, begin, end);
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    const Scratch<Accumulate<T>> scratch(p, 1, memory);
    visit_paths(p.gate.inputs, p.present,
                [&](auto m, auto n) { grads_of_rows<T, m, n>(p, b, rows, scratch, 0, false); });
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
