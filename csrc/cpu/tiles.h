// Loops over any number of paths, in tiles of up to four of those that are written.
//
// A tile's sums stay in registers while all paths that are read pass by, so that these are read
// once per tile, from L1; and in the order of the paths, as everywhere.
#pragma once

#include <algorithm>
#include <memory>

#include "cpu/sample.h"

namespace mpk::cpu::MPK_NAMESPACE {

constexpr int64_t most_of_tile = 4;

// Calls body(Count<size>, first) on tiles of [0, count), as few as there can be, of about one size.
template <class Body>
inline void for_tiles(int64_t count, Body body) {
  int64_t tiles = (count + most_of_tile - 1) / most_of_tile;
  for (int64_t first = 0; tiles > 0; tiles--) {
    const int64_t size = (count - first + tiles - 1) / tiles;
    visit_count(size, [&](auto known) {
      if constexpr (known > 0) body(known, first);
    });
    first += size;
  }
}

// Columns of so many paths that stay in L1 while the tiles are written.
template <class T>
inline int64_t columns_in_cache(int64_t paths) {
  constexpr int64_t bytes = 16384, least = 64;
  return std::max(least, bytes / int64_t(sizeof(T)) / std::max(paths, int64_t(1)) / least * least);
}

// Where a row of each path lies.
template <class T>
class RowTable {
 public:
  explicit RowTable(const Paths& maps) : maps_(maps) {
    if (maps.count > few) more_.reset(new T*[size_t(maps.count)]);
  }
  // Column `col` of row r of every path.
  T* const* at(int64_t r, int64_t col) {
    T** rows = more_ ? more_.get() : rows_;
    for (int64_t path = 0; path < maps_.count; path++) rows[path] = maps_.row<T>(path, r) + col;
    return rows;
  }

 private:
  static constexpr int64_t few = 16;
  const Paths& maps_;
  T* rows_[few];
  std::unique_ptr<T*[]> more_;
};

// Weight of path `from` in sum `to`: data[from * of_from + to * of_to].
template <class A>
struct WeightTable {
  const A* data;
  int64_t of_from, of_to;
  A at(int64_t from, int64_t to) const { return data[from * of_from + to * of_to]; }
};

// `COUNT` vectors of columns from `at` on of to_q = start(q) + sum_p weight(p, q) from_p.
template <int COUNT, int SIZE, class Lanes, class T, class A, class Start>
inline __attribute__((always_inline)) void sum_lanes_of_tile(Lanes lanes, const T* const* from,
                                                             int64_t count, WeightTable<A> weights,
                                                             T* const (&to)[SIZE], int64_t at,
                                                             Start start) {
  constexpr int step = lanes_of<Vec<A>>;
  Vec<A> sums[SIZE][COUNT];
  for (int q = 0; q < SIZE; q++)
    for (int v = 0; v < COUNT; v++) sums[q][v] = start(lanes, q, at + v * step);
  for (int64_t p = 0; p < count; p++) {
    Vec<A> value[COUNT];
    for (int v = 0; v < COUNT; v++) value[v] = lanes.load(from[p] + at + v * step);
    for (int q = 0; q < SIZE; q++)
      for (int v = 0; v < COUNT; v++) sums[q][v] += value[v] * weights.at(p, q);
  }
  for (int q = 0; q < SIZE; q++)
    for (int v = 0; v < COUNT; v++) lanes.store(to[q] + at + v * step, sums[q][v]);
}

// All columns of it, two vectors at a time share the loads of the weights.
template <int SIZE, class T, class A, class Start>
inline void sum_tile(const T* const* from, int64_t count, WeightTable<A> weights,
                     T* const (&to)[SIZE], int64_t cols, Start start) {
  constexpr int two = 2 * lanes_of<Vec<A>>;
  int64_t at = 0;
  for (; at + two <= cols; at += two)
    sum_lanes_of_tile<2>(Whole<A>{}, from, count, weights, to, at, start);
  for_lanes<A>(cols - at, [&](auto lanes, int64_t more) {
    sum_lanes_of_tile<1>(lanes, from, count, weights, to, at + more, start);
  });
}

}  // namespace mpk::cpu::MPK_NAMESPACE
