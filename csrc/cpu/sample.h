// One sample: its maps seen as rows, the parts that it is cut into, and its gates.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/processor.h"

namespace mpk::cpu::MPK_NAMESPACE {

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

// Rows [first, last), of `cols` elements each.
struct Block {
  int64_t first, last, cols;
};

inline Block whole(const Geometry& geometry) {
  return {.first = 0, .last = geometry.rows(), .cols = geometry.cols()};
}

// Parts [begin, end) of a sample. Sums over a sample are sums of its parts' sums, so that they do
// not depend on which thread did which part.
inline Block parts_of(const Geometry& geometry, int64_t begin, int64_t end) {
  const int64_t rows = part_rows(geometry), last = end * rows;
  return {.first = begin * rows,
          .last = last < geometry.rows() ? last : geometry.rows(),
          .cols = geometry.cols()};
}

// Calls body(Block) for all rows of a sample of which `maps` maps were just read, first to last:
// at once where a cache still has them, else part by part from the last one, which it has.
template <class Body>
inline void for_rows_again(const Geometry& geometry, int64_t maps, Body body) {
  const int64_t count = parts(geometry);
  if (maps * map_bytes(geometry) <= caches().second / 2) return body(parts_of(geometry, 0, count));
  for (int64_t part = count - 1; part >= 0; part--) body(parts_of(geometry, part, part + 1));
}

// Gathers the gates of sample b, of any strides, for n outputs: as [m, n] or [m, n, C], or
// [n, m(, C)] where transposed. `output_of` tells which outputs; null: the first ones.
template <class A>
inline void gather(const Gates& gates, int64_t b, int64_t m, int64_t n, const int64_t* output_of,
                   int64_t channels, bool transposed, A* to) {
  const int64_t weights = gates.by_channel ? channels : 1;
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = 0; j < n; j++) {
      const A* from = static_cast<const A*>(gates.data) + b * gates.batch_stride +
                      i * gates.input_stride + (output_of ? output_of[j] : j) * gates.output_stride;
      A* at = to + (transposed ? j * m + i : i * n + j) * weights;
      for (int64_t c = 0; c < weights; c++) at[c] = from[c * gates.channel_stride];
    }
}

}  // namespace mpk::cpu::MPK_NAMESPACE
