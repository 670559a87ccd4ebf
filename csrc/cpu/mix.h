// Y_j = sum_i g_ij X_i (Eq. 5) and its two gradients, over rows of one sample.
//
// M inputs and N outputs are compile-time counts, or both 0 for a loop over any number. Gates are
// [inputs, outputs], contiguous, in the accumulate dtype.
#pragma once

#include "cpu/dispatch.h"

namespace mpk::cpu::MPK_NAMESPACE {

// Maps of one sample.
struct Paths {
  const Map* maps;
  int64_t count;
  int64_t sample;

  template <class T>
  T* row(int64_t path, int64_t r) const {
    const Map& map = maps[path];
    return static_cast<T*>(map.data) + sample * map.batch_stride + r * map.row_stride;
  }

  bool dense(int64_t cols) const {
    for (int64_t path = 0; path < count; path++)
      if (maps[path].row_stride != cols) return false;
    return true;
  }
};

struct Extent {
  int64_t rows, cols;
};

// Rows that follow each other without gaps in all maps are one long row.
inline Extent extent_of(const Geometry& geometry, const Paths& a, const Paths& b) {
  const int64_t rows = geometry.rows(), cols = geometry.cols();
  return a.dense(cols) && b.dense(cols) ? Extent{1, rows * cols} : Extent{rows, cols};
}

template <class T, int M, int N>
inline void mix_row(const Paths& xs, const Paths& ys, int64_t r, int64_t cols,
                    const Accumulate<T>* gates) {
  using A = Accumulate<T>;
  if constexpr (M > 0) {
    // Copies: a store to y could otherwise change gates and pointers in the compiler's eyes.
    A g[M * N];
    const T* x[M];
    T* y[N];
    for (int q = 0; q < M * N; q++) g[q] = gates[q];
    for (int i = 0; i < M; i++) x[i] = xs.row<const T>(i, r);
    for (int j = 0; j < N; j++) y[j] = ys.row<T>(j, r);
    for_lanes<A>(cols, [&](auto zero, int64_t at) {
      using V = decltype(zero);
      V value[M];
      for (int i = 0; i < M; i++) value[i] = load<V>(x[i] + at);
      for (int j = 0; j < N; j++) {
        V sum = value[0] * g[j];
        for (int i = 1; i < M; i++) sum += value[i] * g[i * N + j];
        store(y[j] + at, sum);
      }
    });
  } else {
    for (int64_t j = 0; j < ys.count; j++)
      for_lanes<A>(cols, [&](auto sum, int64_t at) {
        for (int64_t i = 0; i < xs.count; i++)
          sum += load<decltype(sum)>(xs.row<const T>(i, r) + at) * gates[i * ys.count + j];
        store(ys.row<T>(j, r) + at, sum);
      });
  }
}

// d_ij = <dY_j, X_i> over rows [first, last); d is [inputs, outputs], overwritten.
template <class T, int M, int N>
inline void dot_rows(const Paths& xs, const Paths& grad_ys, int64_t first, int64_t last,
                     int64_t cols, Accumulate<T>* d) {
  using A = Accumulate<T>;
  if constexpr (M > 0) {
    Vec<A> wide[M][N] = {};
    A narrow[M][N] = {};
    for (int64_t r = first; r < last; r++) {
      const T *x[M], *dy[N];
      for (int i = 0; i < M; i++) x[i] = xs.row<const T>(i, r);
      for (int j = 0; j < N; j++) dy[j] = grad_ys.row<const T>(j, r);
      for_lanes<A>(cols, [&](auto zero, int64_t at) {
        using V = decltype(zero);
        V value[N];
        for (int j = 0; j < N; j++) value[j] = load<V>(dy[j] + at);
        for (int i = 0; i < M; i++) {
          const V xi = load<V>(x[i] + at);
          for (int j = 0; j < N; j++) {
            if constexpr (std::is_same_v<V, A>)
              narrow[i][j] += xi * value[j];
            else
              wide[i][j] += xi * value[j];
          }
        }
      });
    }
    for (int i = 0; i < M; i++)
      for (int j = 0; j < N; j++) d[i * N + j] = sum_lanes(wide[i][j]) + narrow[i][j];
  } else {
    // One pair at a time: any number of paths, at the price of reading each map once per partner.
    for (int64_t i = 0; i < xs.count; i++)
      for (int64_t j = 0; j < grad_ys.count; j++) {
        const Paths x{xs.maps + i, 1, xs.sample}, dy{grad_ys.maps + j, 1, grad_ys.sample};
        dot_rows<T, 1, 1>(x, dy, first, last, cols, d + i * grad_ys.count + j);
      }
  }
}

// dX_i = sum_j g_ij dY_j + add_i, where add is [inputs, channels].
template <class T, int M, int N>
inline void grad_row(const Geometry& geometry, const Paths& grad_ys, const Paths& grad_xs,
                     int64_t r, const Accumulate<T>* gates, const Accumulate<T>* add) {
  using A = Accumulate<T>;
  const int64_t channels = geometry.channels, cols = geometry.cols();
  const bool by_column = geometry.channels_last;
  const auto added = [=]<class V>(V zero, int64_t i, int64_t at) {
    return by_column ? load<V>(add + i * channels + at) : V(zero + add[i * channels + r]);
  };
  if constexpr (M > 0) {
    A g[M * N];
    const T* dy[N];
    T* dx[M];
    for (int q = 0; q < M * N; q++) g[q] = gates[q];
    for (int j = 0; j < N; j++) dy[j] = grad_ys.row<const T>(j, r);
    for (int i = 0; i < M; i++) dx[i] = grad_xs.row<T>(i, r);
    for_lanes<A>(cols, [&](auto zero, int64_t at) {
      using V = decltype(zero);
      V value[N];
      for (int j = 0; j < N; j++) value[j] = load<V>(dy[j] + at);
      for (int i = 0; i < M; i++) {
        V sum = added(zero, i, at);
        for (int j = 0; j < N; j++) sum += value[j] * g[i * N + j];
        store(dx[i] + at, sum);
      }
    });
  } else {
    for (int64_t i = 0; i < grad_xs.count; i++)
      for_lanes<A>(cols, [&](auto zero, int64_t at) {
        auto sum = added(zero, i, at);
        for (int64_t j = 0; j < grad_ys.count; j++)
          sum +=
              load<decltype(sum)>(grad_ys.row<const T>(j, r) + at) * gates[i * grad_ys.count + j];
        store(grad_xs.row<T>(i, r) + at, sum);
      });
  }
}

}  // namespace mpk::cpu::MPK_NAMESPACE
