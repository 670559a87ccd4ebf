// This processor: the kernels that it runs, its caches, and what follows from their sizes.
#pragma once

#include <cstdint>

#include "problem.h"

namespace mpk::cpu {

struct Kernels;

// The table in use: the best one for this processor, unless `choose` was called.
const Kernels& kernels();

// Uses the named instruction set (null: the best), or returns false where it cannot run here.
bool choose(const char* name);

// Bytes of a processor core's second-level cache and of the last-level cache.
struct Caches {
  int64_t second, last;
};
const Caches& caches();

// One map of one sample.
inline int64_t map_bytes(const Geometry& geometry) {
  return geometry.channels * geometry.positions * bytes_of(geometry.dtype);
}

// Samples that go through the gates together: their maps, those of the next such group and what is
// written share a part of L2.
constexpr int64_t most_samples = 16;
inline int64_t group_size(const Geometry& geometry, int64_t maps) {
  const int64_t one = maps * map_bytes(geometry), fit = caches().second / 2 / (one > 0 ? one : 1);
  return fit < 1 ? 1 : fit > most_samples ? most_samples : fit;
}

// Whether `count` new maps are streamed: they would only push out of the cache what is still
// needed. Rows must be whole lines of 64 bytes, from the first one on.
inline bool streams(const Geometry& geometry, const Map* maps, int64_t count) {
  if (geometry.batch * count * map_bytes(geometry) <= caches().last) return false;
  const int64_t size = bytes_of(geometry.dtype);
  bool aligned = geometry.cols() * size % 64 == 0;
  for (int64_t q = 0; q < count; q++)
    aligned &= reinterpret_cast<uintptr_t>(maps[q].data) % 64 == 0 &&
               maps[q].batch_stride * size % 64 == 0 && maps[q].row_stride * size % 64 == 0;
  return aligned;
}

}  // namespace mpk::cpu
