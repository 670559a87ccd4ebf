// The gate MLP of one path of several samples, forward and backward (Eq. 2 and 3).
//
// Four samples go through a layer together and share the loads of its weights. A sample is summed
// in the same order whether processed alone or with others.
#pragma once

#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/pairwise.h"

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
  Samples from(int64_t b) const { return {.data = at(b), .stride = stride}; }
};

// Calls body(Count, b) on fours of samples [0, count), then on single ones.
template <class Body>
inline __attribute__((always_inline)) void for_fours(int64_t count, Body body) {
  int64_t b = 0;
  for (; b + 4 <= count; b += 4) body(Count<4>{}, b);
  for (; b < count; b++) body(Count<1>{}, b);
}

// sum_r W[r, :] factors(q)[r] of one vector of columns, for COUNT samples. Rows of W are `stride`
// apart. Two chains over the rows hide the latency of the multiply-add.
template <int COUNT, class A, class Lanes>
inline __attribute__((always_inline)) Vectors<A, COUNT> sum_weighted_rows(
    Lanes lanes, const A* w, int64_t rows, int64_t stride, Samples<const A> factors) {
  constexpr int64_t block = 2 * longest_chain;
  return pairwise_sum(blocks_of(rows, block), [=](int64_t at) __attribute__((always_inline)) {
    const int64_t end = std::min((at + 1) * block, rows);
    const A* of[COUNT];
    for (int q = 0; q < COUNT; q++) of[q] = factors.at(q);
    Vectors<A, COUNT> even{}, odd{};
    int64_t r = at * block;
    for (; r + 2 <= end; r += 2) {
      const Vec<A> one = lanes.load(w + r * stride), other = lanes.load(w + (r + 1) * stride);
      for (int q = 0; q < COUNT; q++) even.at[q] += one * of[q][r];
      for (int q = 0; q < COUNT; q++) odd.at[q] += other * of[q][r + 1];
    }
    if (r < end)
      for (int q = 0; q < COUNT; q++) even.at[q] += lanes.load(w + r * stride) * of[q][r];
    even += odd;
    return even;
  });
}

// h = relu(W1 z + b1).
template <class A>
inline void gate_hidden(const PathGate<A>& gate, Samples<const A> z, Samples<A> h, int64_t count) {
  using V = Vec<A>;
  for_fours(count, [&](auto samples, int64_t b) {
    constexpr int four = decltype(samples)::value;
    for_lanes<A>(gate.hidden, [&](auto lanes, int64_t k) {
      const auto sums = sum_weighted_rows<four>(lanes, gate.w1_by_channel + k, gate.channels,
                                                gate.hidden, z.from(b));
      for (int q = 0; q < four; q++) {
        const V sum = sums.at[q] + lanes.load(gate.b1 + k);
        lanes.store(h.at(b + q) + k, V(sum < V{} ? V{} : sum));  // keeps NaN
      }
    });
  });
}

// <x, y>, lane by lane.
template <class A>
inline Vec<A> dot_row(const A* x, const A* y, int64_t size) {
  constexpr int64_t block = longest_chain * lanes_of<Vec<A>>;
  return pairwise_sum(blocks_of(size, block), [=](int64_t at) __attribute__((always_inline)) {
    const int64_t begin = at * block;
    Vec<A> sum = {};
    for_lanes<A>(std::min(block, size - begin), [&](auto lanes, int64_t q) {
      sum += lanes.load(x + begin + q) * lanes.load(y + begin + q);
    });
    return sum;
  });
}

// a = W2 h + b2
template <class A>
inline void gate_logits(const PathGate<A>& gate, Samples<const A> h, Samples<A> logits,
                        int64_t count) {
  for (int64_t b = 0; b < count; b++)
    for (int64_t j = 0; j < gate.outputs; j++) {
      const A* w2 = gate.w2 + j * gate.hidden;
      logits.at(b)[j] = sum_lanes(dot_row(w2, h.at(b), gate.hidden)) + gate.b2[j];
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

// The gates of the logits of some samples, in place.
template <class A>
inline void gates_of_logits(const GateParameters& gate, A* g, int64_t samples) {
  softmax_rows(g, samples * gate.inputs, gate.outputs);
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

// dz = W1^T dH / positions
template <class A>
inline void gate_grad_pooled(const PathGate<A>& gate, Samples<const A> grad_hidden, A positions,
                             Samples<A> grad_z, int64_t count) {
  for_fours(count, [&](auto samples, int64_t b) {
    constexpr int four = decltype(samples)::value;
    for_lanes<A>(gate.channels, [&](auto lanes, int64_t c) {
      const auto sums = sum_weighted_rows<four>(lanes, gate.w1 + c, gate.hidden, gate.channels,
                                                grad_hidden.from(b));
      for (int q = 0; q < four; q++)
        lanes.store(grad_z.at(b + q) + c, Vec<A>(sums.at[q] / positions));
    });
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
