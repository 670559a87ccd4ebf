// Gradients of weights: sums of products over the batch, always in its order.
#pragma once

#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/pairwise.h"

namespace mpk::cpu::MPK_NAMESPACE {

// A matrix [batch, ...] of which rows of `size` values are read.
template <class A>
struct Column {
  const A* data;
  int64_t stride;
  const A* at(int64_t b) const { return data + b * stride; }
};

// The sum over the batch of one(b, sums), which adds what sample b gives to some vectors.
template <class Sums, class One>
inline Sums over_batch(int64_t batch, One one) {
  return pairwise_sum(
      blocks_of(batch, longest_chain), [=](int64_t block) __attribute__((always_inline)) {
        const int64_t first = block * longest_chain, last = std::min(first + longest_chain, batch);
        Sums sums{};
        for (int64_t b = first; b < last; b++) one(b, sums);
        return sums;
      });
}

// weight[r, c] = sum_b factor[b, r] value[b, c] for ROWS rows, each read of `value` shared by all.
template <int ROWS, class A>
inline void sum_products(int64_t batch, Column<A> factor, Column<A> value, int64_t size,
                         A* weight) {
  for_lanes<A>(size, [&](auto lanes, int64_t c) {
    using Sums = Vectors<A, ROWS>;
    const auto sums = over_batch<Sums>(batch, [=](int64_t b, Sums& sums) {
      const Vec<A> v = lanes.load(value.at(b) + c);
      for (int r = 0; r < ROWS; r++) sums.at[r] += v * factor.at(b)[r];
    });
    for (int r = 0; r < ROWS; r++) lanes.store(weight + r * size + c, sums.at[r]);
  });
}

// The same for any number of rows; and bias[r] = sum_b factor[b, r]. Both results may be null.
template <class A>
inline void sum_over_batch(int64_t batch, Column<A> factor, int64_t rows, Column<A> value,
                           int64_t size, A* weight, A* bias) {
  if (weight) {
    int64_t r = 0;
    for (; r + 8 <= rows; r += 8)
      sum_products<8>(batch, {factor.data + r, factor.stride}, value, size, weight + r * size);
    for (; r < rows; r++)
      sum_products<1>(batch, {factor.data + r, factor.stride}, value, size, weight + r * size);
  }
  if (bias)
    for_lanes<A>(rows, [&](auto lanes, int64_t r) {
      const auto sum = over_batch<Vec<A>>(
          batch, [=](int64_t b, Vec<A>& sum) { sum += lanes.load(factor.at(b) + r); });
      lanes.store(bias + r, sum);
    });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
