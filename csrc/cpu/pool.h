// Z = mean of X over its positions (Eq. 1). Reads |X| once.
//
// A channel's positions are added in one order, however many channels a call pools.
#pragma once

#include <algorithm>
#include <memory>

#include "cpu/pairwise.h"
#include "cpu/sample.h"

namespace mpk::cpu::MPK_NAMESPACE {

// Sums of the lanes of rows[r], for up to as many rows as lanes, over `count` of them to z.
template <class A>
inline void store_sums(Vec<A> (&rows)[lanes_of<Vec<A>>], int64_t rows_left, A count, A* z) {
  constexpr int step = lanes_of<Vec<A>>;
  const Vec<A> sums = sum_each(rows) / count;
  if (rows_left >= step)
    store(z, sums);
  else
    store_first(z, sums, int(rows_left));
}

// Sums of x[0], ..., x[size - 1], lane by lane, in four chains: one would wait for each addition.
template <class T, class A>
inline __attribute__((always_inline)) Vec<A> sum_chains(const T* x, int64_t size) {
  constexpr int step = lanes_of<Vec<A>>;
  Vec<A> sums[4] = {};
  int64_t at = 0;
  for (; at + 4 * step <= size; at += 4 * step)
    for (int q = 0; q < 4; q++) sums[q] += load<Vec<A>>(x + at + q * step);
  for_lanes<A>(size - at, [&](auto lanes, int64_t q) { sums[0] += lanes.load(x + at + q); });
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

template <class T, class A>
inline Vec<A> sum_row(const T* x, int64_t size) {
  constexpr int64_t block = 4 * longest_chain * lanes_of<Vec<A>>;
  return pairwise_sum(blocks_of(size, block), [=](int64_t at) __attribute__((always_inline)) {
    return sum_chains<T, A>(x + at * block, std::min(block, size - at * block));
  });
}

// NCHW, channels [first, last): as many rows as lanes at a time, so that the sums over lanes of
// all of them cost one tree of shuffles.
template <class T, class A = Accumulate<T>>
inline void pool_rows(const Paths& xs, int64_t path, int64_t first, int64_t last,
                      const Geometry& geometry, A* z) {
  constexpr int step = lanes_of<Vec<A>>;
  for (int64_t c = first; c < last; c += step) {
    Vec<A> sums[step] = {};
    for (int64_t r = 0; r < step && c + r < last; r++)
      sums[r] = sum_row<T, A>(xs.row<const T>(path, c + r), geometry.positions);
    store_sums<A>(sums, last - c, A(geometry.positions), z + c);
  }
}

// channels_last, channels [first, last): columns of up to eight vectors are summed down the rows, a
// block of rows at a time so that what is read lies together.
template <class T, class A = Accumulate<T>>
inline void pool_cols(const Paths& xs, int64_t path, int64_t first, int64_t last,
                      const Geometry& geometry, A* z) {
  using V = Vec<A>;
  constexpr int step = lanes_of<V>;
  const int64_t positions = geometry.positions;
  const int64_t rows = std::clamp(2048 / (geometry.channels + 1), int64_t(16), longest_chain);
  const int64_t blocks = blocks_of(positions, rows);
  constexpr int64_t few = 2048;
  A kept[few], *waiting = kept;  // [levels, channels]
  std::unique_ptr<A[]> more;
  if (const int64_t size = levels_of(blocks - 1) * (last - first); size > few) {
    more.reset(new A[size_t(size)]);
    waiting = more.get();
  }
  for (int64_t block = 0; block < blocks; block++) {
    const int64_t begin = block * rows, end = std::min(begin + rows, positions);
    const auto finish = [&](auto lanes, V sum, int64_t c) {
      const auto at_level = [&](int level) { return waiting + level * (last - first) + c - first; };
      const int level =
          merge_blocks(block, blocks, [&](int below) { sum = lanes.load(at_level(below)) + sum; });
      if (block + 1 == blocks)
        lanes.store(z + c, V(sum / A(positions)));
      else
        lanes.store(at_level(level), sum);
    };
    const auto sum_down = [&](auto vectors, auto lanes, int64_t c) {
      constexpr int count = decltype(vectors)::value;
      V sums[count] = {};
      for (int64_t s = begin; s < end; s++) {
        const T* x = xs.row<const T>(path, s) + c;
        for (int k = 0; k < count; k++) sums[k] += lanes.load(x + k * step);
      }
      for (int k = 0; k < count; k++) finish(lanes, sums[k], c + k * step);
    };
    int64_t c = first;
    const auto in_steps_of = [&](auto vectors) {
      constexpr int width = decltype(vectors)::value * step;
      for (; c + width <= last; c += width) sum_down(vectors, Whole<A>{}, c);
    };
    in_steps_of(Count<8>{});  // one vector at a time would wait for each addition
    in_steps_of(Count<4>{});
    in_steps_of(Count<2>{});
    for_lanes<A>(last - c, [&](auto lanes, int64_t at) { sum_down(Count<1>{}, lanes, c + at); });
  }
}

// The mean of one position is its value.
template <class T, class A = Accumulate<T>>
inline void pool_vector(const Paths& xs, int64_t path, int64_t first, int64_t last, const Geometry&,
                        A* z) {
  const T* x = xs.row<const T>(path, 0);
  for_lanes<A>(last - first, [&](auto lanes, int64_t at) {
    lanes.store(z + first + at, lanes.load(x + first + at));
  });
}

// Means of channels [first, last) of one sample to z, [m, C].
template <class T, class A = Accumulate<T>>
inline void pool(const Geometry& geometry, const Paths& xs, int64_t first, int64_t last, A* z) {
  const auto rows = geometry.positions == 1  ? pool_vector<T, A>
                    : geometry.channels_last ? pool_cols<T, A>
                                             : pool_rows<T, A>;
  for (int64_t i = 0; i < xs.count; i++)
    rows(xs, i, first, last, geometry, z + i * geometry.channels);
}

}  // namespace mpk::cpu::MPK_NAMESPACE
