// Y_j = sum_i g_ij X_i (Eq. 5) and its two gradients, over rows of one sample.
//
// M inputs and N outputs are compile-time counts, or both 0 for a loop over any number. Gates are
// [inputs, outputs], contiguous, in the accumulate dtype.
#pragma once

#include "cpu/pool.h"
#include "cpu/tiles.h"

namespace mpk::cpu::MPK_NAMESPACE {

// Where new rows go: straight to their maps, or through a staging buffer of a few lines each from
// where they are streamed, one map after the other. Streams that alternate between maps are slow:
// short rows that lie side by side are staged together.
template <class T, int COUNT>
struct Target {
  const Paths& maps;
  const bool streamed;
  const int64_t cols, rows;  // of a row; rows that are staged together
  static constexpr int64_t staged_columns = 2048 / int64_t(sizeof(T));
  alignas(64) T staged[COUNT][staged_columns];
  int64_t waiting = 0;  // staged rows

  Target(const Paths& maps, int64_t cols, bool streamed)
      : maps(maps),
        streamed(streamed),
        cols(cols),
        rows(cols > 0 && maps.dense(cols) && cols < staged_columns ? staged_columns / cols : 1) {}
  int64_t block() const { return streamed ? staged_columns : INT64_MAX; }
  T* at(int path, int64_t r, int64_t col) {
    return streamed ? staged[path] + waiting * cols : maps.row<T>(path, r) + col;
  }
  // Columns [col, col + count) of row r are there; no row follows the last one.
  void finish(int64_t r, int64_t col, int64_t count, bool last) {
    if (!streamed) return;
    if (rows > 1) {
      if (++waiting < rows && !last) return;
      r -= waiting - 1;
      count = waiting * cols;
      waiting = 0;
    }
    for (int path = 0; path < COUNT; path++)
      stream(maps.row<T>(path, r) + col, staged[path], count * int64_t(sizeof(T)));
  }
};

// Calls body(begin, end) on columns [begin, end) of at most `block`.
template <class Body>
inline __attribute__((always_inline)) void for_blocks(int64_t cols, int64_t block, Body body) {
  for (int64_t begin = 0; begin < cols; begin += block)
    body(begin, cols - begin < block ? cols : begin + block);
}

template <int COUNT, class T>
struct RowPointers {
  T* at[COUNT];
  RowPointers(const Paths& maps, int64_t r, int64_t col) {
    for (int path = 0; path < COUNT; path++) at[path] = maps.row<T>(path, r) + col;
  }
};

template <class A, int COUNT>
struct Weights {
  A at[COUNT];  // a copy: a store to a map could otherwise change it in the compiler's eyes
  explicit Weights(const A* from) {
    for (int q = 0; q < COUNT; q++) at[q] = from[q];
  }
};

// Asks for the line some way ahead of one that is about to be written, so that it has been read
// from an outer cache by then.
template <class T>
inline void fetch_to_write(T* to) {
  __builtin_prefetch(reinterpret_cast<const char*>(to) + 2048, 1, 3);
}

// Y_j of one vector of columns, from the values of X there.
template <int M, int N, class Lanes, class T, class A>
inline __attribute__((always_inline)) void mix_lanes(Lanes lanes, const Vec<A> (&value)[M],
                                                     const Weights<A, M * N>& g, T* const (&y)[N],
                                                     int64_t at) {
  for (int j = 0; j < N; j++) {
    Vec<A> sum = value[0] * g.at[j];
    for (int i = 1; i < M; i++) sum += value[i] * g.at[i * N + j];
    fetch_to_write(y[j] + at);
    lanes.store(y[j] + at, sum);
  }
}

// The same for any number of paths.
template <class T, class A = Accumulate<T>>
inline void mix_rows_of_any(const Paths& xs, const Paths& ys, Block rows, const A* gates) {
  if (xs.dense(rows.cols) && ys.dense(rows.cols))  // one long row
    rows = {
        .first = rows.first, .last = rows.first + 1, .cols = (rows.last - rows.first) * rows.cols};
  RowTable<const T> x(xs);
  for (int64_t r = rows.first; r < rows.last; r++)
    for_blocks(rows.cols, columns_in_cache<T>(xs.count), [&](int64_t begin, int64_t end) {
      const T* const* from = x.at(r, begin);
      for_tiles(ys.count, [&](auto size, int64_t first) {
        T* to[size];
        for (int q = 0; q < size; q++) to[q] = ys.row<T>(first + q, r) + begin;
        sum_tile(from, xs.count,
                 WeightTable<A>{.data = gates + first, .of_from = ys.count, .of_to = 1}, to,
                 end - begin, [](auto, int, int64_t) { return Vec<A>{}; });
      });
    });
}

template <class T, int M, int N, class A = Accumulate<T>>
inline void mix_rows(const Paths& xs, const Paths& ys, Block rows, const A* gates, bool streamed) {
  if constexpr (M > 0) {
    const Weights<A, M * N> g(gates);
    const int64_t count = rows.last - rows.first;
    if (xs.dense(rows.cols) && ys.dense(rows.cols))  // one long row
      rows = {.first = rows.first, .last = rows.first + 1, .cols = count * rows.cols};
    Target<T, N> target(ys, rows.cols, streamed);
    for (int64_t r = rows.first; r < rows.last; r++)
      for_blocks(rows.cols, target.block(), [&](int64_t begin, int64_t end) {
        const RowPointers<M, const T> x(xs, r, begin);
        T* y[N];
        for (int j = 0; j < N; j++) y[j] = target.at(j, r, begin);
        for_lanes<A>(end - begin, [&](auto lanes, int64_t at) {
          Vec<A> value[M];
          for (int i = 0; i < M; i++) value[i] = lanes.load(x.at[i] + at);
          mix_lanes<M, N>(lanes, value, g, y, at);
        });
        target.finish(r, begin, end - begin, r + 1 == rows.last);
      });
  } else {
    mix_rows_of_any<T>(xs, ys, rows, gates);
  }
}

// Sums <dY_j, X_i> over columns [begin, end) of some rows, lane by lane: those of i, then of j.
template <class T, int M, int N, class A = Accumulate<T>>
inline __attribute__((always_inline)) Vectors<A, M * N> dot_lanes(const Paths& xs,
                                                                  const Paths& grad_ys,
                                                                  int64_t first, int64_t last,
                                                                  int64_t begin, int64_t end) {
  Vectors<A, M * N> dots{};
  for (int64_t r = first; r < last; r++) {
    const RowPointers<M, const T> x(xs, r, begin);
    const RowPointers<N, const T> dy(grad_ys, r, begin);
    for_lanes<A>(end - begin, [&](auto lanes, int64_t at) {
      Vec<A> value[N];
      for (int j = 0; j < N; j++) value[j] = lanes.load(dy.at[j] + at);
      for (int i = 0; i < M; i++) {
        const Vec<A> xi = lanes.load(x.at[i] + at);
        for (int j = 0; j < N; j++) dots.at[i * N + j] += xi * value[j];
      }
    });
  }
  return dots;
}

// d_ij = <dY_j, X_i> over rows; d is [inputs, outputs], overwritten. A block is a stretch of a long
// row, or some short rows.
template <class T, int M, int N, class A = Accumulate<T>>
inline void dot_rows(const Paths& xs, const Paths& grad_ys, Block rows, A* d) {
  if constexpr (M > 0) {
    constexpr int64_t step = lanes_of<Vec<A>>, terms = 2 * longest_chain, columns = terms * step;
    const int64_t stretches = blocks_of(rows.cols, columns);
    const int64_t together = std::max(terms / blocks_of(rows.cols, step), int64_t(1));
    const int64_t groups = blocks_of(rows.last - rows.first, together);
    const auto dots =
        pairwise_sum(groups * stretches, [=](int64_t block) __attribute__((always_inline)) {
          const int64_t first = rows.first + block / stretches * together;
          const int64_t begin = block % stretches * columns;
          return dot_lanes<T, M, N>(xs, grad_ys, first, std::min(first + together, rows.last),
                                    begin, std::min(begin + columns, rows.cols));
        });
    for (int q = 0; q < M * N; q++) d[q] = sum_lanes(dots.at[q]);
  } else {
    // Tiles of both: a map is read once for every four of its partners.
    for_tiles(xs.count, [&](auto m, int64_t i) {
      for_tiles(grad_ys.count, [&](auto n, int64_t j) {
        A tile[m * n];
        dot_rows<T, m, n>({.maps = xs.maps + i, .count = m, .sample = xs.sample},
                          {.maps = grad_ys.maps + j, .count = n, .sample = grad_ys.sample}, rows,
                          tile);
        for (int q = 0; q < m * n; q++) d[(i + q / n) * grad_ys.count + j + q % n] = tile[q];
      });
    });
  }
}

// dX_i of one vector of columns: sum_j g_ij dY_j + dZ_i / S.
template <class T, bool CHANNELS_LAST, int M, int N, class A = Accumulate<T>>
struct GradRow {
  const A* add;  // dZ / S, [m, C]
  int64_t channels;
  int64_t r;
  const Weights<A, M * N>& g;
  const RowPointers<N, const T>& dy;
  T* const (&dx)[M];

  template <class Lanes>
  inline __attribute__((always_inline)) void operator()(Lanes lanes, int64_t begin,
                                                        int64_t at) const {
    Vec<A> value[N];
    for (int j = 0; j < N; j++) value[j] = lanes.load(dy.at[j] + at);
    for (int i = 0; i < M; i++) {
      const A* of_path = add + i * channels;
      Vec<A> sum;
      if constexpr (CHANNELS_LAST)
        sum = lanes.load(of_path + begin + at);
      else
        sum = Vec<A>{} + of_path[r];
      for (int j = 0; j < N; j++) sum += value[j] * g.at[i * N + j];
      fetch_to_write(dx[i] + at);
      lanes.store(dx[i] + at, sum);
    }
  }
};

template <class T, bool CHANNELS_LAST, int M, int N, class A = Accumulate<T>>
inline void grad_rows(const Geometry& geometry, const Paths& grad_ys, const Paths& grad_xs,
                      Block rows, const A* gates, const A* add, bool streamed) {
  const Weights<A, M * N> g(gates);
  Target<T, M> target(grad_xs, rows.cols, streamed);
  for (int64_t r = rows.first; r < rows.last; r++)
    for_blocks(rows.cols, target.block(), [&](int64_t begin, int64_t end) {
      const RowPointers<N, const T> dy(grad_ys, r, begin);
      T* dx[M];
      for (int i = 0; i < M; i++) dx[i] = target.at(i, r, begin);
      const GradRow<T, CHANNELS_LAST, M, N> grad{
          .add = add, .channels = geometry.channels, .r = r, .g = g, .dy = dy, .dx = dx};
      for_lanes<A>(end - begin, [&](auto lanes, int64_t at) { grad(lanes, begin, at); });
      target.finish(r, begin, end - begin, r + 1 == rows.last);
    });
}

// The same for any number of paths.
template <class T, class A = Accumulate<T>>
inline void grad_rows_of_any(const Geometry& geometry, const Paths& grad_ys, const Paths& grad_xs,
                             Block rows, const A* gates, const A* add) {
  const int64_t n = grad_ys.count, channels = geometry.channels;
  RowTable<const T> dy(grad_ys);
  for (int64_t r = rows.first; r < rows.last; r++)
    for_blocks(rows.cols, columns_in_cache<T>(n), [&](int64_t begin, int64_t end) {
      const T* const* from = dy.at(r, begin);
      for_tiles(grad_xs.count, [&](auto size, int64_t first) {
        T* to[size];
        for (int q = 0; q < size; q++) to[q] = grad_xs.row<T>(first + q, r) + begin;
        const A* of_paths = add + first * channels;
        sum_tile(from, n, WeightTable<A>{.data = gates + first * n, .of_from = 1, .of_to = n}, to,
                 end - begin, [&](auto lanes, int q, int64_t at) {
                   const A* of_path = of_paths + q * channels;
                   return geometry.channels_last ? lanes.load(of_path + begin + at)
                                                 : Vec<A>(Vec<A>{} + of_path[r]);
                 });
      });
    });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
