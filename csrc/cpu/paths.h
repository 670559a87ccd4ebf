// Maps of one sample, seen as rows, and how a sample is cut into parts.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/groups.h"

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

}  // namespace mpk::cpu::MPK_NAMESPACE
