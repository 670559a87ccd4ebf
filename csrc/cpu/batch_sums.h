// Gradients of weights: sums of products over the batch, always in its order.
#pragma once

#include "cpu/dispatch.h"

namespace mpk::cpu::MPK_NAMESPACE {

// A matrix [batch, ...] of which rows of `size` values are read.
template <class A>
struct Column {
  const A* data;
  int64_t stride;
  const A* at(int64_t b) const { return data + b * stride; }
};

// weight[r, c] = sum_b factor[b, r] value[b, c] for ROWS rows, each read of `value` shared by all.
template <int ROWS, class A>
inline void sum_products(int64_t batch, Column<A> factor, Column<A> value, int64_t size,
                         A* weight) {
  for_lanes<A>(size, [&](auto lanes, int64_t c) {
    Vec<A> sum[ROWS] = {};
    for (int64_t b = 0; b < batch; b++) {
      const Vec<A> v = lanes.load(value.at(b) + c);
      for (int r = 0; r < ROWS; r++) sum[r] += v * factor.at(b)[r];
    }
    for (int r = 0; r < ROWS; r++) lanes.store(weight + r * size + c, sum[r]);
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
      Vec<A> sum = {};
      for (int64_t b = 0; b < batch; b++) sum += lanes.load(factor.at(b) + r);
      lanes.store(bias + r, sum);
    });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
