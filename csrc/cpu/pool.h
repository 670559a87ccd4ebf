// Z = mean of X over its positions (Eq. 1). Reads |X| once.
#pragma once

#include "cpu/dispatch.h"

namespace mpk::cpu::MPK_NAMESPACE {

template <class T, class A>
inline A sum_row(const T* x, int64_t cols) {
  Vec<A> wide[2] = {};
  int64_t at = 0;
  constexpr int step = lanes_of<Vec<A>>;
  for (; at + 2 * step <= cols; at += 2 * step) {
    wide[0] += load<Vec<A>>(x + at);
    wide[1] += load<Vec<A>>(x + at + step);
  }
  for (; at + step <= cols; at += step) wide[0] += load<Vec<A>>(x + at);
  A tail = 0;
  for (; at < cols; at++) tail += load<A>(x + at);
  return sum_lanes(Vec<A>(wide[0] + wide[1])) + tail;
}

// One row a channel: as many rows as lanes at a time, so that the sums over lanes of all of them
// cost one tree of shuffles.
template <class T, class A>
inline void pool_rows(const T* x, int64_t row_stride, int64_t channels, int64_t positions, A* z) {
  using V = Vec<A>;
  constexpr int step = lanes_of<V>;
  const A scale = A(1) / A(positions);
  int64_t c = 0;
  for (; c + step <= channels; c += step) {
    V sums[step], tails = {};
    for (int r = 0; r < step; r++) {
      const T* row = x + (c + r) * row_stride;
      sums[r] = V{};
      int64_t at = 0;
      for (; at + step <= positions; at += step) sums[r] += load<V>(row + at);
      for (; at < positions; at++) tails[r] += load<A>(row + at);
    }
    store(z + c, V((sum_each(sums) + tails) * scale));
  }
  for (; c < channels; c++) z[c] = sum_row<T, A>(x + c * row_stride, positions) * scale;
}

// One row a position: columns of four vectors are summed down the rows.
template <class T, class A>
inline void pool_cols(const T* x, int64_t row_stride, int64_t channels, int64_t positions, A* z) {
  using V = Vec<A>;
  constexpr int step = lanes_of<V>;
  const A scale = A(1) / A(positions);
  int64_t c = 0;
  for (; c + 4 * step <= channels; c += 4 * step) {
    V sums[4] = {};
    for (int64_t s = 0; s < positions; s++)
      for (int k = 0; k < 4; k++) sums[k] += load<V>(x + s * row_stride + c + k * step);
    for (int k = 0; k < 4; k++) store(z + c + k * step, V(sums[k] * scale));
  }
  for_lanes<A>(channels - c, [&](auto sum, int64_t at) {
    using W = decltype(sum);
    for (int64_t s = 0; s < positions; s++) sum += load<W>(x + s * row_stride + c + at);
    store(z + c + at, W(sum * scale));
  });
}

template <class T, class A>
inline void pool(const Geometry& geometry, const Map& x, int64_t sample, A* z) {
  const T* from = static_cast<const T*>(x.data) + sample * x.batch_stride;
  const auto rows = geometry.channels_last ? pool_cols<T, A> : pool_rows<T, A>;
  rows(from, x.row_stride, geometry.channels, geometry.positions, z);
}

}  // namespace mpk::cpu::MPK_NAMESPACE
