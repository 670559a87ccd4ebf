// cross_connect: a sample is pooled, gated and mixed while its maps are in cache.
//
// Forward moves (m + n)|X| from and to memory, backward (m + n) + m; the second read of a sample
// hits the cache as long as its maps fit.
#include "cpu/entry.h"
#include "cpu/gate.h"
#include "cpu/mix.h"
#include "cpu/pool.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

template <class T, class A = Accumulate<T>>
__attribute__((noinline)) void pool_and_gate(const CrossConnect& p, int64_t b, A* h) {
  const int64_t m = p.gate.inputs, n = p.gate.outputs, channels = p.geometry.channels;
  for (int64_t i = 0; i < m; i++) {
    A* z = static_cast<A*>(p.pooled) + (b * m + i) * channels;
    const PathGate<A> gate(p.gate, channels, i);
    pool<T>(p.geometry, p.xs[i], b, z);
    gate_hidden(gate, z, h);
    gate_softmax(gate, h, static_cast<A*>(p.gates) + (b * m + i) * n);
  }
}

template <class T, int M, int N, class A = Accumulate<T>>
void forward_samples(const CrossConnect& p, int64_t begin, int64_t end, A* h) {
  const int64_t m = p.gate.inputs, n = p.gate.outputs;
  for (int64_t b = begin; b < end; b++) {
    pool_and_gate<T>(p, b, h);
    const Paths xs{p.xs, m, b}, ys{p.ys, n, b};
    const Extent extent = extent_of(p.geometry, xs, ys);
    const A* gates = static_cast<const A*>(p.gates) + b * m * n;
    for (int64_t r = 0; r < extent.rows; r++) mix_row<T, M, N>(xs, ys, r, extent.cols, gates);
  }
}

// Where each part of the backward's scratch memory begins.
template <class A>
struct Scratch {
  A* d;       // [m, n]
  A* dots;    // [m, present]: <dY_j, X_i>
  A* gates;   // [m, present]: the gates of outputs that have a gradient
  A* grad_z;  // [m, C], divided by S
  Scratch(const CrossConnectBackward& p, void* memory)
      : d(static_cast<A*>(memory)),
        dots(d + p.gate.inputs * p.gate.outputs),
        gates(dots + p.gate.inputs * p.gate.outputs),
        grad_z(gates + p.gate.inputs * p.gate.outputs) {}
};

bool reads(const CrossConnectBackward& p, int64_t i) {
  return p.parameters_wanted || p.grad_xs[i].data != nullptr;
}

// d_ij = <dY_j, X_i> + dL/dg_ij, for the inputs that need it.
template <class T, int M, int N, class A = Accumulate<T>>
void gate_gradients(const CrossConnectBackward& p, int64_t b, const Scratch<A>& scratch) {
  const int64_t m = p.gate.inputs, n = p.gate.outputs;
  const Paths xs{p.xs, m, b}, grad_ys{p.grad_ys, p.present, b};
  const Extent extent = extent_of(p.geometry, xs, grad_ys);
  bool all = true;
  for (int64_t i = 0; i < m; i++) all &= reads(p, i);
  A* dots = scratch.dots;
  if (all && p.present > 0) dot_rows<T, M, N>(xs, grad_ys, 0, extent.rows, extent.cols, dots);
  const A* grad_gates = static_cast<const A*>(p.grad_gates);
  for (int64_t i = 0; i < m; i++) {
    if (!all && reads(p, i)) {
      const Paths x{p.xs + i, 1, b};
      dot_rows<T, 0, 0>(x, grad_ys, 0, extent.rows, extent.cols, dots + i * p.present);
    }
    A* d = scratch.d + i * n;
    for (int64_t j = 0; j < n; j++) d[j] = grad_gates ? grad_gates[(b * m + i) * n + j] : A(0);
    for (int64_t q = 0; q < p.present; q++) d[p.output_of[q]] += dots[i * p.present + q];
  }
}

template <class T, class A = Accumulate<T>>
__attribute__((noinline)) void differentiate_gates(const CrossConnectBackward& p, int64_t b,
                                                   const Scratch<A>& scratch) {
  const int64_t m = p.gate.inputs, n = p.gate.outputs;
  const int64_t channels = p.geometry.channels, hidden = p.gate.hidden;
  for (int64_t i = 0; i < m; i++) {
    if (!reads(p, i) && !p.grad_pooled) continue;
    const int64_t at = b * m + i;
    const PathGate<A> gate(p.gate, channels, i);
    const A* g = static_cast<const A*>(p.gates) + at * n;
    A* grad_hidden = static_cast<A*>(p.grad_hidden) + at * hidden;
    gate_backward(gate, static_cast<const A*>(p.pooled) + at * channels, g, scratch.d + i * n,
                  static_cast<A*>(p.grad_logits) + at * n, grad_hidden,
                  static_cast<A*>(p.hidden) + at * hidden);
    if (p.grad_pooled)
      gate_grad_pooled(gate, grad_hidden, A(1), static_cast<A*>(p.grad_pooled) + at * channels);
    if (p.grad_xs[i].data)
      gate_grad_pooled(gate, grad_hidden, A(1) / A(p.geometry.positions),
                       scratch.grad_z + i * channels);
    for (int64_t q = 0; q < p.present; q++) scratch.gates[i * p.present + q] = g[p.output_of[q]];
  }
}

template <class T, int M, int N, class A = Accumulate<T>>
void input_gradients(const CrossConnectBackward& p, int64_t b, const Scratch<A>& scratch) {
  const int64_t m = p.gate.inputs;
  const Paths grad_ys{p.grad_ys, p.present, b}, grad_xs{p.grad_xs, m, b};
  bool all = true;
  for (int64_t i = 0; i < m; i++) all &= p.grad_xs[i].data != nullptr;
  for (int64_t r = 0; r < p.geometry.rows(); r++) {
    if (all) {
      grad_row<T, M, N>(p.geometry, grad_ys, grad_xs, r, scratch.gates, scratch.grad_z);
      continue;
    }
    for (int64_t i = 0; i < m; i++)
      if (p.grad_xs[i].data)
        grad_row<T, 0, 0>(p.geometry, grad_ys, {p.grad_xs + i, 1, b}, r,
                          scratch.gates + i * p.present, scratch.grad_z + i * p.geometry.channels);
  }
}

template <class T, int M, int N>
void backward_samples(const CrossConnectBackward& p, int64_t begin, int64_t end, void* memory) {
  const Scratch<Accumulate<T>> scratch(p, memory);
  for (int64_t b = begin; b < end; b++) {
    gate_gradients<T, M, N>(p, b, scratch);
    differentiate_gates<T>(p, b, scratch);
    input_gradients<T, M, N>(p, b, scratch);
  }
}

}  // namespace

void cross_connect(const CrossConnect& p, int64_t begin, int64_t end, void* scratch) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    using T = decltype(zero);
    auto* h = static_cast<Accumulate<T>*>(scratch);
    if (!p.ys) {
      for (int64_t b = begin; b < end; b++) pool_and_gate<T>(p, b, h);
      return;
    }
    visit_paths(p.gate.inputs, p.gate.outputs,
                [&](auto m, auto n) { forward_samples<T, m, n>(p, begin, end, h); });
  });
}

void cross_connect_backward(const CrossConnectBackward& p, int64_t begin, int64_t end,
                            void* scratch) {
  visit_dtype(p.geometry.dtype, [&](auto zero) {
    visit_paths(p.gate.inputs, p.present, [&](auto m, auto n) {
      backward_samples<decltype(zero), m, n>(p, begin, end, scratch);
    });
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
