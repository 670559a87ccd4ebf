// Predictions of small vectors, U_i = W_i X_i, and their gradients.
//
// A sample is summed in the same order whether processed alone or with others.
#include <algorithm>

#include "cpu/gate.h"
#include "cpu/pairwise.h"

namespace mpk::cpu::MPK_NAMESPACE {
namespace {

template <class A>
const A* row_of(const Map& map, int64_t b) {
  return static_cast<const A*>(map.data) + b * map.batch_stride;
}

// A tile of as many weight rows as a vector has lanes; past the end the last row repeats.
template <class A>
struct RowTile {
  static constexpr int size = lanes_of<Vec<A>>;
  const A* w[size];
  int count;

  RowTile(const A* weight, int64_t rows, int64_t channels, int64_t first)
      : count(rows - first < size ? int(rows - first) : size) {
    for (int q = 0; q < size; q++) w[q] = weight + (first + (q < count ? q : count - 1)) * channels;
  }

  // u = W x of these rows, whose sums end as one vector.
  void predict(const A* x, int64_t channels, A* u) const {
    constexpr int64_t block = longest_chain * size;
    auto sums = pairwise_sum(blocks_of(channels, block), [&](int64_t at) {
      const int64_t begin = at * block;
      Vectors<A, size> sums{};
      for_lanes<A>(std::min(block, channels - begin), [&](auto lanes, int64_t c) {
        const Vec<A> value = lanes.load(x + begin + c);
        for (int q = 0; q < size; q++) sums.at[q] += lanes.load(w[q] + begin + c) * value;
      });
      return sums;
    });
    if (count == size)
      store(u, sum_each(sums.at));
    else
      store_first(u, sum_each(sums.at), count);
  }
};

// Samples that meet a tile of weights while it is in L1.
constexpr int64_t samples_of_tile = 16;

// dx = dz + W^T du for `count` samples.
template <class A>
void grads_of_samples(const A* weight, int64_t rows, int64_t channels, Samples<const A> du,
                      Samples<const A> dz, Samples<A> dx, int64_t count) {
  for_fours(count, [&](auto samples, int64_t b) {
    constexpr int four = decltype(samples)::value;
    for_lanes<A>(channels, [&](auto lanes, int64_t c) {
      const auto sums = sum_weighted_rows<four>(lanes, weight + c, rows, channels, du.from(b));
      for (int q = 0; q < four; q++)
        lanes.store(dx.at(b + q) + c, Vec<A>(lanes.load(dz.at(b + q) + c) + sums.at[q]));
    });
  });
}

// Calls body(zero) with a zero of the dtype, which is f32 or f64.
template <class Body>
void visit_wide(Dtype dtype, Body body) {
  if (dtype == Dtype::f64)
    body(double{});
  else
    body(float{});
}

}  // namespace

void predict(const Predict& p, int64_t begin, int64_t end) {
  visit_wide(p.geometry.dtype, [&](auto zero) {
    using A = decltype(zero);
    const int64_t channels = p.geometry.channels, batch = p.geometry.batch;
    for (int64_t i = 0; i < p.inputs; i++) {
      const A* weight = static_cast<const A*>(p.weight) + i * p.rows * channels;
      A* us = static_cast<A*>(p.us) + i * batch * p.rows;
      for (int64_t first = begin; first < end; first += samples_of_tile) {
        const int64_t last = std::min(end, first + samples_of_tile);
        for (int64_t r = 0; r < p.rows; r += RowTile<A>::size) {
          const RowTile<A> tile(weight, p.rows, channels, r);
          for (int64_t b = first; b < last; b++)
            tile.predict(row_of<A>(p.xs[i], b), channels, us + b * p.rows + r);
        }
      }
    }
  });
}

void predict_grads(const PredictBackward& p, int64_t begin, int64_t end) {
  visit_wide(p.geometry.dtype, [&](auto zero) {
    using A = decltype(zero);
    const int64_t channels = p.geometry.channels, batch = p.geometry.batch;
    for (int64_t i = 0; i < p.inputs; i++) {
      const Map& to = p.grad_xs[i];
      if (!to.data) continue;
      const A* du = static_cast<const A*>(p.grad_us) + (i * batch + begin) * p.rows;
      const A* dz = static_cast<const A*>(p.grad_pooled) + (begin * p.inputs + i) * channels;
      A* dx = static_cast<A*>(to.data) + begin * to.batch_stride;
      grads_of_samples<A>(static_cast<const A*>(p.weight) + i * p.rows * channels, p.rows, channels,
                          {.data = du, .stride = p.rows},
                          {.data = dz, .stride = p.inputs * channels},
                          {.data = dx, .stride = to.batch_stride}, end - begin);
    }
  });
}

void predict_weight_gradients(const PredictBackward& p, int64_t begin, int64_t end) {
  visit_wide(p.geometry.dtype, [&](auto zero) {
    using A = decltype(zero);
    const int64_t channels = p.geometry.channels, batch = p.geometry.batch;
    const int64_t eights = (p.rows + 7) / 8;
    for (int64_t task = begin; task < end; task++) {
      const int64_t i = task / eights, r = task % eights * 8, left = p.rows - r;
      const A* du = static_cast<const A*>(p.grad_us) + i * batch * p.rows + r;
      A* to = static_cast<A*>(p.grad_weight) + (i * p.rows + r) * channels;
      A* no_bias = nullptr;
      sum_over_batch<A>(batch, {.data = du, .stride = p.rows}, left < 8 ? left : 8,
                        {.data = row_of<A>(p.xs[i], 0), .stride = p.xs[i].batch_stride}, channels,
                        to, no_bias);
    }
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
