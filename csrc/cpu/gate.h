// The gate MLP of one path of one sample, forward and backward (Eq. 2 and 3).
#pragma once

#include "cpu/dispatch.h"

namespace mpk::cpu::MPK_NAMESPACE {

template <class A>
inline A exponential(A value) {
  if constexpr (std::is_same_v<A, double>)
    return __builtin_exp(value);
  else
    return __builtin_expf(value);
}

// A view of the parameters of path i.
template <class A>
struct PathGate {
  const A *w1, *w1_by_channel, *b1, *w2, *b2;
  int64_t channels, hidden, outputs;

  PathGate(const GateParameters& gate, int64_t channels, int64_t i)
      : w1(static_cast<const A*>(gate.w1) + i * gate.hidden * channels),
        w1_by_channel(static_cast<const A*>(gate.w1_by_channel) + i * channels * gate.hidden),
        b1(static_cast<const A*>(gate.b1) + i * gate.hidden),
        w2(static_cast<const A*>(gate.w2) + i * gate.outputs * gate.hidden),
        b2(static_cast<const A*>(gate.b2) + i * gate.outputs),
        channels(channels),
        hidden(gate.hidden),
        outputs(gate.outputs) {}
};

// h = relu(W1 z + b1). Four chains over the channels hide the latency of the multiply-add.
template <class A>
inline void gate_hidden(const PathGate<A>& gate, const A* z, A* h) {
  for_lanes<A>(gate.hidden, [&](auto zero, int64_t k) {
    using V = decltype(zero);
    const A* w = gate.w1_by_channel + k;
    V sums[4] = {load<V>(gate.b1 + k)};
    int64_t c = 0;
    for (; c + 4 <= gate.channels; c += 4)
      for (int q = 0; q < 4; q++) sums[q] += load<V>(w + (c + q) * gate.hidden) * z[c + q];
    for (; c < gate.channels; c++) sums[0] += load<V>(w + c * gate.hidden) * z[c];
    const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    store(h + k, V(sum < zero ? zero : sum));  // keeps NaN
  });
}

// g = softmax(W2 h + b2)
template <class A>
inline void gate_softmax(const PathGate<A>& gate, const A* h, A* g) {
  for (int64_t j = 0; j < gate.outputs; j++) {
    Vec<A> wide = {};
    A sum = gate.b2[j];
    for_lanes<A>(gate.hidden, [&](auto zero, int64_t k) {
      using V = decltype(zero);
      const V product = load<V>(gate.w2 + j * gate.hidden + k) * load<V>(h + k);
      if constexpr (std::is_same_v<V, A>)
        sum += product;
      else
        wide += product;
    });
    g[j] = sum + sum_lanes(wide);
  }
  A largest = g[0], total = 0;
  for (int64_t j = 1; j < gate.outputs; j++)
    if (!(g[j] <= largest)) largest = g[j];
  for (int64_t j = 0; j < gate.outputs; j++) total += g[j] = exponential(g[j] - largest);
  for (int64_t j = 0; j < gate.outputs; j++) g[j] /= total;
}

// dA = g (d - <g, d>);  dH = 1(h > 0) W2^T dA. `h` is recomputed from the pooled values.
template <class A>
inline void gate_backward(const PathGate<A>& gate, const A* z, const A* g, const A* d,
                          A* grad_logits, A* grad_hidden, A* h) {
  gate_hidden(gate, z, h);
  A mean = 0;
  for (int64_t j = 0; j < gate.outputs; j++) mean += g[j] * d[j];
  for (int64_t j = 0; j < gate.outputs; j++) grad_logits[j] = g[j] * (d[j] - mean);
  for_lanes<A>(gate.hidden, [&](auto sum, int64_t k) {
    using V = decltype(sum);
    for (int64_t j = 0; j < gate.outputs; j++)
      sum += load<V>(gate.w2 + j * gate.hidden + k) * grad_logits[j];
    // As in PyTorch's relu, a NaN activation lets its gradient through.
    store(grad_hidden + k, V(load<V>(h + k) <= V{} ? V{} : sum));
  });
}

// dz = scale W1^T dH
template <class A>
inline void gate_grad_pooled(const PathGate<A>& gate, const A* grad_hidden, A scale, A* grad_z) {
  for_lanes<A>(gate.channels, [&](auto sum, int64_t c) {
    using V = decltype(sum);
    for (int64_t k = 0; k < gate.hidden; k++)
      sum += load<V>(gate.w1 + k * gate.channels + c) * grad_hidden[k];
    store(grad_z + c, V(sum * scale));
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
