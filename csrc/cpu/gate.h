// The gate MLP of one path of several samples, forward and backward (Eq. 2 and 3).
//
// Four samples go through a layer together and share the loads of its weights; a sample's sums
// have the same order alone and in company.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/exponential.h"

namespace mpk::cpu::MPK_NAMESPACE {

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

// Rows of several samples: sample b begins at data + b * stride.
template <class A>
struct Samples {
  A* data;
  int64_t stride;
  A* at(int64_t b) const { return data + b * stride; }
};

// Calls body(Count, b) on fours of samples [0, count), then on single ones.
template <class Body>
inline __attribute__((always_inline)) void for_fours(int64_t count, Body body) {
  int64_t b = 0;
  for (; b + 4 <= count; b += 4) body(Count<4>{}, b);
  for (; b < count; b++) body(Count<1>{}, b);
}

// h = relu(W1 z + b1). Two chains over the channels hide the latency of the multiply-add.
template <class A>
inline void gate_hidden(const PathGate<A>& gate, Samples<const A> z, Samples<A> h, int64_t count) {
  using V = Vec<A>;
  for_fours(count, [&](auto samples, int64_t b) {
    constexpr int four = decltype(samples)::value;
    const A* from[four];
    for (int q = 0; q < four; q++) from[q] = z.at(b + q);
    for_lanes<A>(gate.hidden, [&](auto lanes, int64_t k) {
      const A* w = gate.w1_by_channel + k;
      V even[four], odd[four] = {};
      for (int q = 0; q < four; q++) even[q] = lanes.load(gate.b1 + k);
      int64_t c = 0;
      for (; c + 2 <= gate.channels; c += 2) {
        const V one = lanes.load(w + c * gate.hidden),
                other = lanes.load(w + (c + 1) * gate.hidden);
        for (int q = 0; q < four; q++) even[q] += one * from[q][c];
        for (int q = 0; q < four; q++) odd[q] += other * from[q][c + 1];
      }
      if (c < gate.channels)
        for (int q = 0; q < four; q++) even[q] += lanes.load(w + c * gate.hidden) * from[q][c];
      for (int q = 0; q < four; q++) {
        const V sum = even[q] + odd[q];
        lanes.store(h.at(b + q) + k, V(sum < V{} ? V{} : sum));  // keeps NaN
      }
    });
  });
}

// a = W2 h + b2
template <class A>
inline void gate_logits(const PathGate<A>& gate, Samples<const A> h, Samples<A> logits,
                        int64_t count) {
  for (int64_t b = 0; b < count; b++)
    for (int64_t j = 0; j < gate.outputs; j++) {
      Vec<A> sum = {};
      for_lanes<A>(gate.hidden, [&](auto lanes, int64_t k) {
        sum += lanes.load(gate.w2 + j * gate.hidden + k) * lanes.load(h.at(b) + k);
      });
      logits.at(b)[j] = sum_lanes(sum) + gate.b2[j];
    }
}

// softmax of `rows` rows of logits, in place.
template <class A>
inline void softmax_rows(A* g, int64_t rows, int64_t outputs) {
  for (int64_t r = 0; r < rows; r++) {
    A* row = g + r * outputs;
    A largest = row[0];
    for (int64_t j = 1; j < outputs; j++)
      if (!(row[j] <= largest)) largest = row[j];
    for (int64_t j = 0; j < outputs; j++) row[j] -= largest;
  }
  for_lanes<A>(rows * outputs, [&](auto lanes, int64_t at) {
    lanes.store(g + at, exponential(lanes.load(g + at)));
  });
  for (int64_t r = 0; r < rows; r++) {
    A* row = g + r * outputs;
    A total = 0;
    for (int64_t j = 0; j < outputs; j++) total += row[j];
    for (int64_t j = 0; j < outputs; j++) row[j] /= total;
  }
}

// dA = g (d - <g, d>);  dH = 1(h > 0) W2^T dA.
template <class A>
inline void gate_backward(const PathGate<A>& gate, Samples<const A> g, Samples<const A> d,
                          Samples<const A> h, Samples<A> grad_logits, Samples<A> grad_hidden,
                          int64_t count) {
  using V = Vec<A>;
  for (int64_t b = 0; b < count; b++) {
    A mean = 0;
    A* da = grad_logits.at(b);
    for (int64_t j = 0; j < gate.outputs; j++) mean += g.at(b)[j] * d.at(b)[j];
    for (int64_t j = 0; j < gate.outputs; j++) da[j] = g.at(b)[j] * (d.at(b)[j] - mean);
    for_lanes<A>(gate.hidden, [&](auto lanes, int64_t k) {
      V sum = {};
      for (int64_t j = 0; j < gate.outputs; j++)
        sum += lanes.load(gate.w2 + j * gate.hidden + k) * da[j];
      // As in PyTorch's relu, a NaN activation lets its gradient through.
      lanes.store(grad_hidden.at(b) + k, V(lanes.load(h.at(b) + k) <= V{} ? V{} : sum));
    });
  }
}

// dz = scale W1^T dH
template <class A>
inline void gate_grad_pooled(const PathGate<A>& gate, Samples<const A> grad_hidden, A scale,
                             Samples<A> grad_z, int64_t count) {
  using V = Vec<A>;
  for_fours(count, [&](auto samples, int64_t b) {
    constexpr int four = decltype(samples)::value;
    const A* from[four];
    for (int q = 0; q < four; q++) from[q] = grad_hidden.at(b + q);
    for_lanes<A>(gate.channels, [&](auto lanes, int64_t c) {
      V sum[four] = {};
      for (int64_t k = 0; k < gate.hidden; k++) {
        const V w = lanes.load(gate.w1 + k * gate.channels + c);
        for (int q = 0; q < four; q++) sum[q] += w * from[q][k];
      }
      for (int q = 0; q < four; q++) lanes.store(grad_z.at(b + q) + c, V(sum[q] * scale));
    });
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
